//! Decoding with a key-value cache: up to [`SLOTS`] prompts advance together, and a finished one's place is taken by
//! the next prompt at once. What all prompts begin with goes through the model once.

mod adapter;
mod pass;

use consilium_core::engine::{Decoding, Finish, Generation, Watcher};

use crate::forward::Pass;
use crate::kernels::decode::Segment;
use crate::kernels::rope::RopeTable;
use crate::sampling::Sampler;
use pass::{Decoder, Sequence};

/// Prompts that advance together.
const SLOTS: usize = 32;
/// Tokens of one pass: bounds the buffers, and a long prompt does not hold up the others.
const PASS_TOKENS: usize = 512;
/// Fewer tokens in common are not worth a pass of their own.
const SHORTEST_SHARED: usize = 4;

/// One prompt under way.
struct Slot {
    /// Its number among the prompts.
    prompt: usize,
    sequence: Sequence,
    /// New ids.
    ids: Vec<u32>,
    sampler: Sampler,
    /// Why it is finished, once it is.
    finish: Option<Finish>,
}

/// Continues all prompts; see [`consilium_core::engine::Engine::generate`].
pub(crate) fn generate(
    pass: &Pass,
    rope: &RopeTable,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    watch: Watcher<'_>,
) -> Vec<Generation> {
    if decoding.max_new_tokens == 0 {
        return prompts.iter().map(|_| Generation { ids: Vec::new(), finish: Finish::Length }).collect();
    }
    let config = pass.model.config();
    let mut decoder = Decoder::new(pass, rope);
    let common = common_prefix(prompts);
    let shared = match prompts.first() {
        Some(ids) if common > 0 => decoder.prefill(&ids[..common]),
        _ => Segment::default(),
    };

    let mut results: Vec<Option<Generation>> = prompts.iter().map(|_| None).collect();
    let mut waiting = prompts.iter().enumerate();
    let mut active: Vec<Slot> = Vec::new();
    loop {
        for (prompt, ids) in waiting.by_ref().take(SLOTS - active.len()) {
            active.push(Slot {
                prompt,
                sequence: Sequence::new(&ids[common..]),
                ids: Vec::new(),
                sampler: Sampler::new(prompt, ids, decoding),
                finish: None,
            });
        }
        if active.is_empty() {
            break;
        }
        let picked = next_ids(pass, &mut decoder, &shared, &mut active, decoding);
        for (slot, id) in picked {
            let slot = &mut active[slot];
            slot.finish = advance(slot, id, prompts, decoding, config.max_positions, watch);
        }
        for mut slot in active.extract_if(.., |slot| slot.finish.is_some()) {
            let ids = std::mem::take(&mut slot.ids);
            results[slot.prompt] = slot.finish.map(|finish| Generation { ids, finish });
            decoder.recycle(slot.sequence);
        }
    }
    results.into_iter().map(|r| r.expect("every prompt ends before the loop does")).collect()
}

/// How many tokens all prompts begin with, leaving each at least one of its own; 0 where that is not worth a pass.
fn common_prefix(prompts: &[Vec<u32>]) -> usize {
    let [first, others @ ..] = prompts else { return 0 };
    let alike = |ids: &Vec<u32>| first.iter().zip(ids).take_while(|(a, b)| a == b).count();
    let shortest = prompts.iter().map(Vec::len).min().unwrap_or(0);
    match others.iter().map(alike).min().map(|n| n.min(shortest - 1)) {
        Some(n) if n >= SHORTEST_SHARED => n,
        _ => 0,
    }
}

/// One pass; the slots whose pending tokens it finished, each with its next id.
fn next_ids(
    pass: &Pass,
    decoder: &mut Decoder,
    shared: &Segment,
    active: &mut [Slot],
    decoding: &Decoding,
) -> Vec<(usize, u32)> {
    // Who only waits for its next token goes first; prompts share what is left of the pass.
    let mut left = PASS_TOKENS;
    for started in [true, false] {
        for Slot { sequence, .. } in active.iter_mut().filter(|slot| slot.ids.is_empty() != started) {
            left -= sequence.take(left);
        }
    }
    let mut sequences: Vec<&mut Sequence> = active.iter_mut().map(|slot| &mut slot.sequence).collect();
    let logits = decoder.advance(shared, &mut sequences, true);
    let mut ready: Vec<(usize, &mut Slot, &mut [f32], u32)> = active
        .iter_mut()
        .enumerate()
        .filter(|(_, slot)| slot.sequence.pending() == 0)
        .zip(logits.chunks_exact_mut(pass.model.config().vocab_size))
        .map(|((index, slot), logits)| (index, slot, logits, 0))
        .collect();
    pass.threads.for_each_mut(&mut ready, |(_, slot, logits, id)| *id = slot.sampler.pick(logits, decoding));
    ready.into_iter().map(|(index, _, _, id)| (index, id)).collect()
}

/// Takes the new token; says why the prompt is finished, if it is.
fn advance(
    slot: &mut Slot,
    id: u32,
    prompts: &[Vec<u32>],
    decoding: &Decoding,
    context: usize,
    watch: &mut dyn FnMut(usize, &[u32]) -> bool,
) -> Option<Finish> {
    if decoding.stop_ids.contains(&id) {
        return Some(Finish::Stop);
    }
    slot.ids.push(id);
    slot.sequence.push(id);
    if !watch(slot.prompt, &slot.ids) {
        Some(Finish::Stop)
    } else if slot.ids.len() >= decoding.max_new_tokens {
        Some(Finish::Length)
    } else if prompts[slot.prompt].len() + slot.ids.len() >= context {
        Some(Finish::Context)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_prefix_leaves_every_prompt_a_token_of_its_own() {
        let prompt = |end: &[u32]| [&[1, 2, 3, 4, 5], end].concat();
        assert_eq!(common_prefix(&[]), 0);
        assert_eq!(common_prefix(&[prompt(&[6])]), 0, "alone");
        assert_eq!(common_prefix(&[prompt(&[6, 7]), prompt(&[6, 8])]), 6);
        assert_eq!(common_prefix(&[prompt(&[6, 7]), prompt(&[6, 7]), prompt(&[])]), 4);
        assert_eq!(common_prefix(&[prompt(&[]), vec![1, 2, 3]]), 0, "too short");
    }
}
