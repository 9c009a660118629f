//! Hospitals that take part in a session one by one: the same bytes as a simulation, what they refuse, and how they go
//! on after a stop.

mod common;
#[path = "common/room.rs"]
mod room;

use std::path::Path;

use common::{StopWhen, config, inputs};
use consilium_core::metric::NullSink;
use consilium_core::{Event, Sink, StopFlag, peft};
use consilium_engine::initial_adapter;
use consilium_eval::TableOptions;
use consilium_experiment::hospital::{
    self, AuditEvent, AuditLog, Connection, Gate, LateAnswer, Policy, SitePlan, SiteVerdict, read_audit,
};
use consilium_experiment::run_folder::read_events;
use consilium_experiment::{Config, ExperimentError, Inputs, simulate};
use consilium_federation::Task;
use room::{Door, Room};

const SITES: [&str; 2] = ["north", "south side"];

fn plan(config: &Config, inputs: &Inputs) -> SitePlan {
    let initial = initial_adapter(inputs.model.config(), &config.lora, config.seed);
    SitePlan::of(config, inputs.model.info().sha256, initial.sha256())
}

fn room(plan: &SitePlan, inputs: &Inputs, sites: &[&str], tamper: fn(&mut Task)) -> Room {
    let initial = initial_adapter(inputs.model.config(), &plan.lora, plan.seed);
    Room::new(plan, sites, initial, tamper)
}

fn lenient() -> Policy {
    Policy { min_training_rows: 1, ..Policy::default() }
}

/// The inputs of one site alone.
fn only(inputs: &Inputs, site: &str) -> Inputs {
    let mut own = inputs.clone();
    own.shards.retain(|shard| shard.name == site);
    own
}

/// One call at one site.
fn attend(
    plan: &SitePlan,
    inputs: &Inputs,
    door: &mut Door<'_>,
    out: &Path,
    sink: &dyn Sink,
    stop: &StopFlag,
) -> Result<SiteVerdict, ExperimentError> {
    let own = only(inputs, door.site);
    let config = plan.config_for(door.site, "rows.csv", None, 1);
    let (policy, clock) = (lenient(), || 1_772_368_205);
    let audit = AuditLog::open(&out.join("audit.jsonl"), clock())?;
    let mut gate = Gate::open(plan, &policy, own.shards[0].train.len(), audit, &clock)?;
    let room = door.room;
    let late = &room.late_answers;
    let connection = Connection {
        transport: door,
        late_answers: &mut || std::mem::take(&mut *late.lock().unwrap()),
        first_adapter: &mut |_| Ok(room.first.clone()),
        final_adapter: &mut |schema| room.adapter(schema),
    };
    hospital::run(&config, &own, &mut gate, connection, out, sink, stop)
}

fn bytes(out: &Path, model: &str) -> Vec<u8> {
    std::fs::read(out.join("adapters").join(model).join(peft::WEIGHTS_FILE)).unwrap()
}

#[test]
fn hospitals_apart_make_the_adapters_and_the_verdict_of_a_simulation() {
    let root = tempfile::tempdir().unwrap();
    let (config, inputs) = (config(), inputs());
    let simulated = root.path().join("simulated");
    let summary = simulate(&config, &inputs, &simulated, &NullSink, &StopFlag::new()).unwrap();

    let plan = SitePlan::from_json(&plan(&config, &inputs).to_json()).unwrap();
    let room = room(&plan, &inputs, &SITES, |_| {});
    let verdicts: Vec<SiteVerdict> = std::thread::scope(|scope| {
        let (room, plan, inputs, root) = (&room, &plan, &inputs, root.path());
        let site = |site: &'static str| {
            scope.spawn(move || {
                let mut door = Door { room, site, lost: 0 };
                attend(plan, inputs, &mut door, &root.join(site), &NullSink, &StopFlag::new()).unwrap()
            })
        };
        SITES.map(site).map(|handle| handle.join().unwrap()).into()
    });

    for (index, (site, verdict)) in SITES.iter().zip(&verdicts).enumerate() {
        let out = root.path().join(site);
        let local = format!("local-{site}");
        assert!(
            bytes(&out, "federated") == bytes(&simulated, "federated"),
            "{site}: another federated adapter"
        );
        assert!(bytes(&out, &local) == bytes(&simulated, &local), "{site}: another local adapter");
        for model in ["federated", &local] {
            assert_eq!(verdict.adapter_sha256[model], summary.adapter_sha256[model], "{site}");
        }
        let among = &summary.verdict.rows[index];
        let alone = consilium_eval::VerdictRow { pooled: among.pooled, ..verdict.verdict.rows[0].clone() };
        assert_eq!(&alone, among, "{site}: the same questions get the same verdict");
        assert_eq!((verdict.rounds_accepted(), verdict.rounds_in_all, verdict.local_steps), (2, 2, 8));

        for file in ["config.toml", "plan.json", "metrics.jsonl", "predictions.jsonl", "site-summary.json"] {
            assert!(out.join(file).is_file(), "{site}: {file}");
        }
        assert!(!out.join("state").exists());
        let written = std::fs::read_to_string(out.join("site-summary.json")).unwrap();
        assert_eq!(&serde_json::from_str::<SiteVerdict>(&written).unwrap(), verdict);
        let audit = std::fs::read_to_string(out.join("audit.jsonl")).unwrap();
        for row in inputs.shards.iter().flat_map(|shard| shard.train.iter().chain(&shard.test)) {
            assert!(
                !written.contains(&row.question) && !written.contains(&row.answer),
                "a row's text got out"
            );
            assert!(
                !audit.contains(&row.question) && !audit.contains(&row.answer),
                "a row's text is in the log"
            );
        }
        let text = verdict.render(&TableOptions::default());
        assert!(
            text.contains(site) && text.contains("2 of 2 rounds") && text.contains("No pooled model"),
            "{text}"
        );
        assert!(!text.contains("Worst site"), "{text}");

        // A finished run asks nobody anything.
        let mut nobody = Door { room: &room, site, lost: usize::MAX };
        let again = attend(&plan, &inputs, &mut nobody, &out, &NullSink, &StopFlag::new()).unwrap();
        assert_eq!(&again, verdict);
    }
    assert_eq!(room.failures(), []);
}

#[test]
fn a_session_goes_on_from_the_model_of_an_earlier_one() {
    let root = tempfile::tempdir().unwrap();
    let (config, mut inputs) = (config(), inputs());
    inputs.shards.truncate(1);
    let fresh = plan(&config, &inputs);
    let first = room(&fresh, &inputs, &["north"], |_| {});
    let go = |plan: &SitePlan, room: &Room, name: &str| {
        let mut door = Door { room, site: "north", lost: 0 };
        attend(plan, &inputs, &mut door, &root.path().join(name), &NullSink, &StopFlag::new())
    };
    let before = go(&fresh, &first, "first").unwrap();
    let trained = first.adapter(&first.first.schema()).unwrap();
    assert_eq!(trained.sha256(), before.adapter_sha256["federated"]);

    let given = SitePlan { given_adapter: true, adapter_sha256: trained.sha256(), ..fresh.clone() };
    let second = Room::new(&given, &["north"], trained.clone(), |_| {});
    let after = go(&given, &second, "second").unwrap();
    assert_ne!(after.adapter_sha256["federated"], before.adapter_sha256["federated"], "it was trained on");
    let score = |verdict: &SiteVerdict, model: usize| verdict.scores[model].all;
    assert_eq!(score(&after, 0), score(&before, 2), "its base is what the earlier session ended with");

    let other = Room::new(&given, &["north"], first.first.clone(), |_| {});
    let lied = go(&given, &other, "lied").unwrap_err();
    assert!(
        matches!(&lied, ExperimentError::NotThePlan { what, .. } if what == "adapter_sha256"),
        "{lied:?}"
    );
    let strict = Policy { allow_given_adapter: false, ..lenient() };
    let refused = strict.check_plan(&given, 8).unwrap_err().to_string();
    assert!(refused.contains("allow_given_adapter") && refused.contains(&trained.sha256()), "{refused}");
    assert_eq!(strict.check_plan(&fresh, 8), Ok(()));
}

#[test]
fn what_leaves_is_logged_before_it_leaves() {
    let root = tempfile::tempdir().unwrap();
    let (config, mut inputs) = (config(), inputs());
    inputs.shards.truncate(1);
    let plan = plan(&config, &inputs);
    let room = room(&plan, &inputs, &["north"], |_| {});
    let mut door = Door { room: &room, site: "north", lost: 0 };
    let late = LateAnswer { round: 1, refused: Some("late".into()) };
    room.late_answers.lock().unwrap().push(late);
    let verdict = attend(&plan, &inputs, &mut door, root.path(), &NullSink, &StopFlag::new()).unwrap();
    let lines = read_audit(&root.path().join("audit.jsonl")).unwrap();
    let kinds: Vec<String> = lines
        .iter()
        .map(|line| serde_json::to_value(line).unwrap()["event"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds, ["plan", "answer", "task", "update", "answer", "task", "update", "answer", "final"]);
    let earlier = AuditEvent::Answer { round: 1, accepted: false, reason: Some("late".into()) };
    assert_eq!(lines[1].event, earlier, "what an earlier run had sent is answered in the log too");
    assert!(matches!(&lines[3].event, AuditEvent::Update { round: 1, examples: 8, .. }));
    let AuditEvent::Update { adapter_sha256, .. } = &lines[6].event else { panic!() };
    assert_eq!(*adapter_sha256, verdict.adapter_sha256["federated"], "one site's mean is its own update");
    assert_eq!(lines[0].at, "2026-03-01T12:30:05Z");
}

#[test]
fn a_site_stopped_or_cut_off_anywhere_ends_with_the_same_bytes() {
    type Matches = fn(&Event) -> bool;
    let root = tempfile::tempdir().unwrap();
    let (config, mut inputs) = (config(), inputs());
    inputs.shards.truncate(1);
    let plan = plan(&config, &inputs);
    let go = |name: &str, door: &mut Door<'_>, sink: &dyn Sink, stop: &StopFlag| {
        attend(&plan, &inputs, door, &root.path().join(name), sink, stop)
    };
    let whole_room = room(&plan, &inputs, &["north"], |_| {});
    let mut door = Door { room: &whole_room, site: "north", lost: 0 };
    let whole = go("whole", &mut door, &NullSink, &StopFlag::new()).unwrap();

    let stops: [(&str, usize, Matches); 3] = [
        ("second round", 6, |e| matches!(e, Event::Step { model, .. } if model == "federated")),
        ("local", 3, |e| matches!(e, Event::Step { model, .. } if model == "local-north")),
        ("answers", 2, |e| matches!(e, Event::Progress { .. })),
    ];
    for (place, count, matches) in stops {
        let room = room(&plan, &inputs, &["north"], |_| {});
        let mut door = Door { room: &room, site: "north", lost: 0 };
        let sink = StopWhen::new(count, matches);
        let stopped = go(place, &mut door, &sink, &sink.stop);
        assert!(matches!(&stopped, Err(ExperimentError::Stopped { .. })), "{place}: {stopped:?}");
        assert_eq!(room.failures(), [], "{place}: who comes back has not failed");
        let resumed = go(place, &mut door, &NullSink, &StopFlag::new()).unwrap();
        same(place, &root.path().join(place), &resumed, &root.path().join("whole"), &whole);
    }

    // The line dies under the first update; the round is worked again.
    let room = room(&plan, &inputs, &["north"], |_| {});
    let mut door = Door { room: &room, site: "north", lost: 1 };
    let lost = go("lost", &mut door, &NullSink, &StopFlag::new()).unwrap_err();
    assert!(matches!(&lost, ExperimentError::Transport(why) if why.0 == "the line is dead"), "{lost:?}");
    let resumed = go("lost", &mut door, &NullSink, &StopFlag::new()).unwrap();
    same("lost", &root.path().join("lost"), &resumed, &root.path().join("whole"), &whole);
}

fn same(place: &str, out: &Path, found: &SiteVerdict, whole_out: &Path, whole: &SiteVerdict) {
    for model in ["federated", "local-north"] {
        assert!(bytes(out, model) == bytes(whole_out, model), "{place}: {model} has other bytes");
    }
    assert_eq!(found.verdict, whole.verdict, "{place}");
    assert_eq!(found.rounds, whole.rounds, "{place}");
    let answers = |out: &Path| std::fs::read(out.join("predictions.jsonl")).unwrap();
    assert!(answers(out) == answers(whole_out), "{place}: other answers");
    let steps = |out: &Path| -> Vec<(String, u64)> {
        let step = |event| match event {
            Event::Step { model, step, .. } => Some((model, step)),
            _ => None,
        };
        read_events(&out.join("metrics.jsonl")).unwrap().into_iter().filter_map(step).collect()
    };
    assert_eq!(steps(out), steps(whole_out), "{place}: each step once, in order");
}

#[test]
fn a_task_that_the_plan_did_not_announce_is_refused_reported_and_logged() {
    let root = tempfile::tempdir().unwrap();
    let (config, mut inputs) = (config(), inputs());
    inputs.shards.truncate(1);
    let plan = plan(&config, &inputs);
    let room = room(&plan, &inputs, &["north"], |task| task.training.learning_rate = 0.5);
    let mut door = Door { room: &room, site: "north", lost: 0 };
    let error = attend(&plan, &inputs, &mut door, root.path(), &NullSink, &StopFlag::new()).unwrap_err();
    assert!(matches!(error, ExperimentError::NoRound { rounds: 2, .. }), "{error}");
    let failures = room.failures();
    assert_eq!(failures.len(), 2);
    assert!(
        failures[0].2.contains("training.learning_rate") && failures[0].2.contains("0.5"),
        "{failures:?}"
    );
    let lines = read_audit(&root.path().join("audit.jsonl")).unwrap();
    let refused = |line: &&hospital::AuditLine| matches!(&line.event, AuditEvent::Task { allowed: false, reason: Some(why), .. } if why.contains("0.5"));
    assert_eq!(lines.iter().filter(refused).count(), 2);
    assert!(!lines.iter().any(|line| matches!(line.event, AuditEvent::Update { .. })), "nothing left");
}

#[test]
fn a_plan_beyond_the_policy_is_refused_before_anything_is_loaded() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("audit.jsonl");
    let plan = plan(&config(), &inputs());
    let open = |policy: &Policy| {
        let audit = AuditLog::open(&path, 5).unwrap();
        Gate::open(&plan, policy, 8, audit, &|| 6).map(|_| ())
    };
    let error = open(&Policy::default()).unwrap_err();
    assert!(matches!(&error, ExperimentError::Refused(_)) && error.to_string().contains("min_training_rows"));
    let error = open(&Policy { max_rounds: 1, ..lenient() }).unwrap_err().to_string();
    assert_eq!(error, "policy max_rounds: the session asks for 2, this site allows at most 1");
    open(&lenient()).unwrap();
    let allowed: Vec<bool> = read_audit(&path)
        .unwrap()
        .iter()
        .map(|line| matches!(line.event, AuditEvent::Plan { allowed: true, .. }))
        .collect();
    assert_eq!(allowed, [false, false, true]);
}

#[test]
fn what_is_not_what_the_plan_says_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let (config, inputs) = (config(), inputs());
    let right = plan(&config, &inputs);
    let refused = |plan: &SitePlan, inputs: &Inputs| {
        let room = room(&right, inputs, &["north"], |_| {});
        let mut door = Door { room: &room, site: "north", lost: 0 };
        let out = root.path().join("out");
        attend(plan, inputs, &mut door, &out, &NullSink, &StopFlag::new()).unwrap_err().to_string()
    };
    let other = SitePlan { model_sha256: "0".repeat(64), ..right.clone() };
    assert!(refused(&other, &inputs).contains("model_sha256"));
    let other = SitePlan { adapter_sha256: "0".repeat(64), ..right.clone() };
    assert!(refused(&other, &inputs).contains("adapter_sha256"));
    let mut stranger = inputs.clone();
    stranger.template = consilium_data::Template::workshop();
    assert!(refused(&right, &stranger).contains("template"));
}
