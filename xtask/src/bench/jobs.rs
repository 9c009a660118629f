//! Every run that a benchmark can consist of, and in which order they take turns.

use anyhow::{Context, Result};

use super::options::Options;

/// Whose run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `consilium-bench`.
    Ours,
    /// A script `bench/peer_*.py`.
    Peer,
}

/// What `--only` chooses among.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    TrainF32,
    TrainInt8,
    AllF32,
    AllInt8,
    Generate,
    Lengths,
    Startup,
}

impl Group {
    pub const ALL: [Group; 7] = [
        Group::TrainF32,
        Group::TrainInt8,
        Group::AllF32,
        Group::AllInt8,
        Group::Generate,
        Group::Lengths,
        Group::Startup,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Group::TrainF32 => "train-f32",
            Group::TrainInt8 => "train-int8",
            Group::AllF32 => "all-f32",
            Group::AllInt8 => "all-int8",
            Group::Generate => "generate",
            Group::Lengths => "lengths",
            Group::Startup => "startup",
        }
    }

    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|group| group.name() == name)
            .with_context(|| format!("--only {name}: there are {}", Self::ALL.map(Group::name).join(", ")))
    }
}

/// One process: its name, by which repeated runs are put together, and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// For example `ours train f32`; see [`names`].
    pub name: &'static str,
    pub side: Side,
    /// The subcommand of the worker, or the peer's script; then what is not common to all.
    pub arguments: Vec<String>,
}

/// Names of the jobs.
pub mod names {
    pub const CEILINGS: &str = "ceilings";
    pub const TRAIN_F32: &str = "ours train f32";
    pub const TRAIN_INT8: &str = "ours train int8";
    pub const ALL_F32: &str = "ours all-linear f32";
    pub const ALL_INT8: &str = "ours all-linear int8";
    pub const F32_B1: &str = "ours generate f32, batch 1";
    pub const F32_B16: &str = "ours generate f32, batch 16";
    pub const INT8_B1: &str = "ours generate int8, batch 1";
    pub const INT8_B16: &str = "ours generate int8, batch 16";
    pub const LENGTHS_F32: &str = "ours lengths f32";
    pub const LENGTHS_INT8: &str = "ours lengths int8";
    pub const SFT: &str = "peer SFTTrainer";
    /// The tight loop in its three variants; the best of them is what we compare with.
    pub const LOOP: [&str; 3] = ["peer loop, batch 4", "peer loop, batch 16", "peer loop, packed 512"];
    pub const LOOP_ALL: [&str; 3] = [
        "peer loop all-linear, batch 4",
        "peer loop all-linear, batch 16",
        "peer loop all-linear, packed 512",
    ];
    pub const PEER_B1: &str = "peer generate, batch 1";
    pub const PEER_B16: &str = "peer generate, batch 16";
}

/// The machine's limits, probed between the others.
pub fn ceilings(options: &Options) -> Job {
    let arguments = format!("ceilings --threads {}", options.threads);
    Job { name: names::CEILINGS, side: Side::Ours, arguments: split(&arguments) }
}

/// The jobs of one repetition, the sides taking turns; without the peer's, where it is not there.
pub fn of_one_repetition(options: &Options) -> Vec<Job> {
    let wants = |groups: &[Group]| options.groups.iter().any(|group| groups.contains(group));
    let ours = |name, words: String| Job { name, side: Side::Ours, arguments: split(&words) };
    let peer = |name, words: String| Job { name, side: Side::Peer, arguments: split(&words) };
    let (samples, new) = (options.samples, options.new_tokens);

    let mut training = Vec::new();
    let mut opponents = Vec::new();
    if wants(&[Group::TrainF32, Group::Startup]) {
        training.push(ours(names::TRAIN_F32, format!("train --precision f32 --samples {samples}")));
    }
    if wants(&[Group::TrainInt8]) {
        training.push(ours(names::TRAIN_INT8, format!("train --precision int8 --samples {samples}")));
    }
    if wants(&[Group::TrainF32, Group::TrainInt8, Group::Startup]) {
        opponents.push(peer(names::SFT, format!("peer_sft.py --samples {samples}")));
    }
    let loops = |names: [&'static str; 3], targets: &str| {
        let variants = names.into_iter().zip(["b4", "b16", "packed512"]);
        variants
            .map(|(name, variant)| {
                let words = format!("peer_loop.py --samples {samples} --targets {targets} --case {variant}");
                peer(name, words)
            })
            .collect::<Vec<_>>()
    };
    // Int8 training with q and v only is held against SFTTrainer alone.
    if wants(&[Group::TrainF32]) {
        opponents.extend(loops(names::LOOP, "qv"));
    }

    let mut all_linear = Vec::new();
    let mut all_opponents = Vec::new();
    for (group, name, precision) in
        [(Group::AllF32, names::ALL_F32, "f32"), (Group::AllInt8, names::ALL_INT8, "int8")]
    {
        if wants(&[group]) {
            let words = format!("train --precision {precision} --targets all --samples {samples}");
            all_linear.push(ours(name, words));
        }
    }
    if !all_linear.is_empty() {
        all_opponents.extend(loops(names::LOOP_ALL, "all"));
    }

    let mut jobs = in_turn(training, opponents, options);
    jobs.extend(in_turn(all_linear, all_opponents, options));
    if wants(&[Group::Generate]) {
        for (batch, f32_name, int8_name, peer_name) in [
            (1, names::F32_B1, names::INT8_B1, names::PEER_B1),
            (16, names::F32_B16, names::INT8_B16, names::PEER_B16),
        ] {
            let words = |precision| format!("generate --precision {precision} --batch {batch} --new {new}");
            let own = vec![ours(f32_name, words("f32")), ours(int8_name, words("int8"))];
            let opponent = peer(peer_name, format!("peer_generate.py --batch {batch} --new {new}"));
            jobs.extend(in_turn(own, vec![opponent], options));
        }
    }
    if wants(&[Group::Lengths]) {
        for (name, precision) in [(names::LENGTHS_F32, "f32"), (names::LENGTHS_INT8, "int8")] {
            let steps = if options.quick { 1 } else { 3 };
            let words = format!(
                "lengths --precision {precision} --steps {steps} --len 64 --len 128 --len 256 --len 512"
            );
            jobs.push(ours(name, words));
        }
    }
    jobs
}

/// Ours, theirs, ours, theirs, until both lists are through; our short list starts over meanwhile.
fn in_turn(ours: Vec<Job>, theirs: Vec<Job>, options: &Options) -> Vec<Job> {
    if options.torch.is_none() {
        return ours;
    }
    let mut jobs = Vec::new();
    for turn in 0..ours.len().max(theirs.len()) {
        jobs.extend(ours.get(turn % ours.len().max(1)).cloned());
        jobs.extend(theirs.get(turn).cloned());
    }
    jobs
}

fn split(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_of(arguments: &[&str]) -> Vec<&'static str> {
        let options = Options::parse(arguments).unwrap();
        of_one_repetition(&options).iter().map(|job| job.name).collect()
    }

    #[test]
    fn the_sides_take_turns() {
        assert_eq!(
            names_of(&["--with-torch", "t", "--only", "train-f32,train-int8"]),
            [
                names::TRAIN_F32,
                names::SFT,
                names::TRAIN_INT8,
                names::LOOP[0],
                names::TRAIN_F32,
                names::LOOP[1],
                names::TRAIN_INT8,
                names::LOOP[2],
            ]
        );
    }

    #[test]
    fn without_a_peer_each_of_ours_runs_once() {
        let all = names_of(&[]);
        assert!(all.iter().all(|name| name.starts_with("ours")), "{all:?}");
        assert_eq!(all.len(), 10);
        assert_eq!(names_of(&["--only", "startup"]), [names::TRAIN_F32]);
        assert_eq!(names_of(&["--with-torch", "t", "--only", "startup"]), [names::TRAIN_F32, names::SFT]);
    }
}
