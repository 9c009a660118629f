//! The round machine, one case at a time.

use super::*;

const SITES: [&str; 3] = ["a", "b", "c"];

fn session(rounds: u32, quorum: usize) -> Session {
    let settings = SessionSettings { rounds, sites_per_round: None, quorum, deadline_s: 10.0, seed: 1 };
    Session::new(settings, SITES.map(String::from).into(), "m0".into())
}

fn offer(round: u32, base: &str) -> Offer {
    Offer { round, base_sha256: base.into(), examples: 10, metrics: UpdateMetrics::default() }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn it_knows_whom_it_waits_for_and_a_pause_costs_no_time() {
    let mut session = session(1, 2);
    session.advance(at(0));
    session.offer(at(1), "b", &offer(1, "m0"));
    session.fail(1, "c", "no");
    assert_eq!(session.awaited().collect::<Vec<_>>(), ["a"]);
    assert!(session.awaits("a") && !session.awaits("b") && !session.awaits("nobody"));
    session.restart_deadline(at(50));
    assert_eq!(session.deadline(), Some(at(60)));
}

#[test]
fn a_round_commits_when_all_have_answered() {
    let mut session = session(1, 2);
    assert!(matches!(session.advance(at(0)), Some(Action::Publish { round: 1, .. })));
    assert_eq!(session.advance(at(0)), None);
    for site in ["c", "a", "b"] {
        assert_eq!(session.offer(at(1), site, &offer(1, "m0")), Answer::Accepted);
    }
    let Some(Action::Aggregate { contributions, .. }) = session.advance(at(2)) else { panic!() };
    let order: Vec<&str> = contributions.iter().map(|c| c.site.as_str()).collect();
    assert_eq!(order, SITES, "byte order, not arrival order");
    let record = session.commit(at(3), "m1".into()).unwrap();
    assert!(record.committed && record.reasons.is_empty());
    assert_eq!(record.took, at(3));
    assert_eq!(session.advance(at(3)), Some(Action::Finished));
    assert_eq!(session.advance(at(3)), None);
    assert_eq!(session.base_sha256(), "m1");
}

#[test]
fn what_must_not_count_is_answered_and_not_counted() {
    let mut session = session(2, 1);
    session.advance(at(0));
    assert_eq!(session.offer(at(1), "a", &offer(1, "m0")), Answer::Accepted);
    let refused = |answer| match answer {
        Answer::Refused(why) => why,
        Answer::Accepted => panic!("accepted"),
    };
    assert_eq!(refused(session.offer(at(1), "a", &offer(1, "m0"))), Refusal::Duplicate);
    assert_eq!(refused(session.offer(at(1), "b", &offer(1, "other"))), Refusal::Stale);
    assert_eq!(refused(session.offer(at(1), "z", &offer(1, "m0"))), Refusal::Foreign);
    assert_eq!(refused(session.offer(at(1), "b", &offer(2, "m0"))), Refusal::Early);
    assert_eq!(
        refused(session.offer(at(1), "b", &Offer { examples: 0, ..offer(1, "m0") })),
        Refusal::NoExamples
    );
    assert_eq!(refused(session.offer(at(10), "b", &offer(1, "m0"))), Refusal::Late, "at the deadline");
    assert!(matches!(session.advance(at(10)), Some(Action::Aggregate { .. })));
    assert_eq!(refused(session.offer(at(10), "b", &offer(1, "m0"))), Refusal::Late, "sealed");
    let record = session.commit(at(11), "m1".into()).unwrap();
    assert_eq!(record.accepted.len(), 1);
    assert_eq!(record.reasons["b"], "nothing arrived before the deadline");
    session.advance(at(11));
    assert_eq!(refused(session.offer(at(12), "b", &offer(1, "m0"))), Refusal::Late, "next round");
}

#[test]
fn a_failed_round_keeps_the_model_and_the_session_goes_on() {
    let mut session = session(2, 2);
    session.advance(at(0));
    session.offer(at(1), "a", &offer(1, "m0"));
    session.fail(1, "b", "power cut");
    session.fail(1, "c", "out of memory");
    let Some(Action::Failed(record)) = session.advance(at(1)) else { panic!() };
    assert!(!record.committed);
    assert_eq!(record.reasons["b"], "power cut");
    assert_eq!(record.reasons[""], "1 of 2 needed updates arrived");
    assert_eq!(session.base_sha256(), "m0");
    assert!(matches!(session.advance(at(2)), Some(Action::Publish { round: 2, .. })));
}

#[test]
fn a_site_that_recovers_is_counted_and_an_accepted_update_outlives_a_failure() {
    let mut session = session(1, 3);
    session.advance(at(0));
    session.fail(1, "a", "flaky");
    assert_eq!(session.offer(at(1), "a", &offer(1, "m0")), Answer::Accepted);
    session.fail(1, "a", "crashed after sending");
    for site in ["b", "c"] {
        session.offer(at(2), site, &offer(1, "m0"));
    }
    assert!(
        matches!(session.advance(at(3)), Some(Action::Aggregate { contributions, .. }) if contributions.len() == 3)
    );
}

#[test]
fn what_was_pending_is_announced_again_after_a_restart() {
    let mut session = session(1, 1);
    let publish = session.advance(at(0));
    let mut again = restart(&session);
    assert_eq!(again.advance(at(1)), publish);
    again.offer(at(1), "a", &offer(1, "m0"));
    let aggregate = again.advance(at(10));
    assert!(matches!(aggregate, Some(Action::Aggregate { .. })));
    assert_eq!(restart(&again).advance(at(11)), aggregate);
}

fn restart(session: &Session) -> Session {
    Session { announced: false, ..session.clone() }
}
