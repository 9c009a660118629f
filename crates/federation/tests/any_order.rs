//! Whatever happens, in any order, twice, late or never: every round ends, and exactly the accepted are counted.

use std::collections::BTreeSet;
use std::time::Duration;

use consilium_core::{Adapter, Tensor};
use consilium_federation::{
    Action, Answer, FedAvg, Offer, RoundRecord, Session, SessionSettings, Strategy as _, UpdateMetrics,
    Weights,
};
use proptest::prelude::*;

const SITES: usize = 5;

/// Something that reaches the coordinator.
#[derive(Clone, Debug)]
enum Arrival {
    /// An update of a site (the last number is foreign) for a round relative to the open one, from the right model or not.
    Update { site: usize, round_offset: i32, right_model: bool },
    /// A site gives up.
    Failure { site: usize },
    /// Time passes, seconds.
    Wait(u64),
    /// The sealed round cannot be aggregated.
    Abandon,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = prop_oneof![
        6 => (0..=SITES, prop_oneof![8 => Just(0), 1 => Just(-1), 1 => Just(1)], prop::bool::weighted(0.9))
            .prop_map(|(site, round_offset, right_model)| Arrival::Update { site, round_offset, right_model }),
        1 => (0..=SITES).prop_map(|site| Arrival::Failure { site }),
        2 => (0u64..15).prop_map(Arrival::Wait),
        1 => Just(Arrival::Abandon),
    ];
    prop::collection::vec(one, 0..120)
}

fn name(site: usize) -> String {
    format!("site {site}")
}

/// Site i's update: the global model plus one in coordinate i.
fn one_hot(site: usize, global: &Adapter) -> Adapter {
    let mut values: Vec<f32> = global.flat().collect();
    values[site] += 1.0;
    adapter(values)
}

fn adapter(data: Vec<f32>) -> Adapter {
    Adapter::new(vec![Tensor { name: "w".into(), shape: vec![data.len()], data }]).unwrap()
}

/// A coordinator over the session, with the simplest possible store.
struct Coordinator {
    session: Session,
    global: Adapter,
    now: Duration,
    accepted: BTreeSet<usize>,
    sealed: Option<Vec<String>>,
    abandon_next: bool,
    ended: Vec<RoundRecord>,
    published: Vec<u32>,
    finished: u32,
}

impl Coordinator {
    fn new(settings: SessionSettings) -> Self {
        Self {
            session: Session::new(settings, (0..SITES).map(name).collect(), "m".into()),
            global: adapter(vec![0.0; SITES]),
            now: Duration::ZERO,
            accepted: BTreeSet::new(),
            sealed: None,
            abandon_next: false,
            ended: Vec::new(),
            published: Vec::new(),
            finished: 0,
        }
    }

    fn take(&mut self, arrival: &Arrival) {
        match *arrival {
            Arrival::Wait(seconds) => self.now += Duration::from_secs(seconds),
            Arrival::Abandon => self.abandon_next = true,
            Arrival::Failure { site } => self.session.fail(self.session.round(), &name(site), "gave up"),
            Arrival::Update { site, round_offset, right_model } => {
                let base = if right_model { self.session.base_sha256() } else { "other" };
                let round = self.session.round().saturating_add_signed(round_offset);
                let offer = Offer {
                    round,
                    base_sha256: base.into(),
                    examples: 1 + site as u64,
                    metrics: UpdateMetrics::default(),
                };
                if self.session.offer(self.now, &name(site), &offer) == Answer::Accepted {
                    assert!(right_model && round_offset == 0 && site < SITES);
                    assert!(self.accepted.insert(site), "accepted twice");
                }
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(action) = self.session.advance(self.now) {
            match action {
                Action::Publish { round, .. } => {
                    self.published.push(round);
                    self.accepted.clear();
                }
                Action::Failed(record) => self.ended.push(record),
                Action::Finished => self.finished += 1,
                Action::Aggregate { contributions, .. } => {
                    let sites: Vec<usize> = contributions
                        .iter()
                        .map(|c| c.site.strip_prefix("site ").unwrap().parse().unwrap())
                        .collect();
                    assert_eq!(sites, Vec::from_iter(self.accepted.iter().copied()), "counted = accepted");
                    if std::mem::take(&mut self.abandon_next) {
                        self.ended.push(self.session.abandon(self.now, "told to").unwrap());
                        continue;
                    }
                    let mut strategy = FedAvg::new(Weights::Uniform);
                    strategy.begin(&self.global, &contributions).unwrap();
                    for &site in &sites {
                        strategy.fold(&name(site), &one_hot(site, &self.global)).unwrap();
                    }
                    let next = strategy.finish().unwrap();
                    for (i, (new, old)) in next.flat().zip(self.global.flat()).enumerate() {
                        let counted = f64::from(u8::from(self.accepted.contains(&i))) / sites.len() as f64;
                        assert!((f64::from(new - old) - counted).abs() < 1e-5, "coordinate {i}");
                    }
                    self.global = next;
                    let model = format!("m{}", self.session.round());
                    self.ended.push(self.session.commit(self.now, model).unwrap());
                    self.sealed = None;
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn every_round_ends_and_exactly_the_accepted_are_counted(
        arrivals in arrivals(),
        rounds in 1u32..5,
        quorum in 1usize..=SITES,
        sampled in prop::option::of(1usize..=SITES),
        seed: u64,
    ) {
        let settings = SessionSettings { rounds, sites_per_round: sampled, quorum, deadline_s: 20.0, seed };
        let mut coordinator = Coordinator::new(settings);
        coordinator.settle();
        for arrival in &arrivals {
            coordinator.take(arrival);
        }
        // Whatever is still open ends by its deadline, without any further message.
        for _ in 0..rounds {
            coordinator.take(&Arrival::Wait(20));
        }
        prop_assert!(coordinator.session.is_finished());
        prop_assert_eq!(coordinator.finished, 1);
        let order: Vec<u32> = (1..=rounds).collect();
        prop_assert_eq!(&coordinator.published, &order);
        prop_assert_eq!(coordinator.ended.iter().map(|r| r.round).collect::<Vec<_>>(), order);
        for record in &coordinator.ended {
            let told_to = record.reasons.get("").is_some_and(|reason| reason == "told to");
            prop_assert_eq!(record.committed, record.accepted.len() >= quorum && !told_to);
            prop_assert!(record.took <= Duration::from_secs(20 + 20), "ended at the first look after its deadline");
        }
    }

    #[test]
    fn the_aggregate_does_not_depend_on_the_order_of_arrival(order in Just((0..SITES).collect::<Vec<_>>()).prop_shuffle()) {
        let settings = SessionSettings { rounds: 1, sites_per_round: None, quorum: SITES, deadline_s: 20.0, seed: 0 };
        let mut session = Session::new(settings, (0..SITES).rev().map(name).collect(), "m".into());
        session.advance(Duration::ZERO);
        for site in order {
            let offer = Offer { round: 1, base_sha256: "m".into(), examples: 3 + site as u64, metrics: UpdateMetrics::default() };
            prop_assert_eq!(session.offer(Duration::ZERO, &name(site), &offer), Answer::Accepted);
        }
        let Some(Action::Aggregate { contributions, .. }) = session.advance(Duration::ZERO) else {
            return Err(TestCaseError::fail("not sealed"));
        };
        let global = adapter(vec![0.1; SITES]);
        let mut strategy = FedAvg::new(Weights::Examples);
        strategy.begin(&global, &contributions).unwrap();
        for contribution in &contributions {
            let site: usize = contribution.site.strip_prefix("site ").unwrap().parse().unwrap();
            strategy.fold(&contribution.site, &adapter((0..SITES).map(|i| (i + site) as f32 / 3.0).collect())).unwrap();
        }
        prop_assert_eq!(strategy.finish().unwrap().sha256(), EXPECTED_SHA256);
    }
}

/// Pinned: a change here changes every federated model that anybody has trained.
const EXPECTED_SHA256: &str = "f6f3ab1942cdfe84e7144bdb2cd099123ed9d285231790531d4873b84877dfdb";
