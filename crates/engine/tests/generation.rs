//! Generation seen from outside: what runs beside a prompt, what prompts share and how many threads there are change
//! nothing in its ids.

mod common;

use std::sync::Arc;

use common::{engine_with, lora, random_adapter, random_model, random_rows};
use consilium_core::engine::{Decoding, Engine, Finish, Generation};
use consilium_core::{SeededRng, Target};
use consilium_engine::{CpuEngine, Model};

fn engine(model: &Arc<Model>, threads: usize) -> CpuEngine {
    let lora = lora(Target::ALL);
    engine_with(model, &lora, &random_adapter(model, &lora, 3), threads)
}

/// `count` prompts of 3 to 40 tokens that begin with the same `shared` ones.
fn prompts(count: usize, shared: usize) -> Vec<Vec<u32>> {
    let mut rng = SeededRng::derive(7, 0, "", "lengths");
    let lengths: Vec<usize> = (0..=count).map(|_| 3 + rng.below(38)).collect();
    let beginning = &random_rows(&[shared.max(1)], 300, 8)[0].ids[..shared];
    let rows = random_rows(&lengths[..count], 300, 9);
    rows.iter().map(|row| [beginning, &row.ids].concat()).collect()
}

fn penalised(max_new_tokens: usize) -> Decoding {
    Decoding { max_new_tokens, repetition_penalty: 1.2, ..Decoding::default() }
}

fn run(engine: &mut CpuEngine, prompts: &[Vec<u32>], decoding: &Decoding) -> Vec<Generation> {
    engine.generate(prompts, decoding, &mut |_, _| true).unwrap()
}

#[test]
fn a_shared_beginning_and_more_prompts_than_slots_change_no_id() {
    let model = random_model(1);
    for shared in [0, 4, 22, 60] {
        let (prompts, decoding) = (prompts(40, shared), penalised(20));
        let together = run(&mut engine(&model, 2), &prompts, &decoding);
        let mut alone = engine(&model, 1);
        for (prompt, expected) in prompts.iter().zip(&together) {
            assert_eq!(
                &run(&mut alone, std::slice::from_ref(prompt), &decoding)[0],
                expected,
                "{shared} shared"
            );
        }
    }
}

#[test]
fn threads_change_no_id_greedy_or_sampled() {
    let model = random_model(2);
    let prompts = prompts(35, 10);
    let sampled = Decoding { temperature: 0.9, top_k: 50, top_p: 0.9, seed: 4, ..penalised(15) };
    let unlimited = Decoding { temperature: 1.1, seed: 4, ..penalised(15) };
    for decoding in [penalised(15), sampled, unlimited] {
        let expected = run(&mut engine(&model, 1), &prompts, &decoding);
        assert_eq!(run(&mut engine(&model, 2), &prompts, &decoding), expected, "two threads");
        assert_eq!(run(&mut engine(&model, 3), &prompts, &decoding), expected, "three threads");
    }
}

#[test]
fn equal_prompts_share_all_but_their_last_token() {
    let model = random_model(3);
    let prompt = prompts(1, 30).remove(0);
    let expected = run(&mut engine(&model, 1), std::slice::from_ref(&prompt), &penalised(12));
    let three =
        run(&mut engine(&model, 1), &[prompt.clone(), prompt.clone(), prompt.clone()], &penalised(12));
    assert_eq!(three, vec![expected[0].clone(); 3]);
    // One that is the beginning of the other.
    let shorter = prompt[..prompt.len() - 5].to_vec();
    let both = run(&mut engine(&model, 1), &[prompt, shorter.clone()], &penalised(12));
    assert_eq!(both[0], expected[0]);
    assert_eq!(both[1], run(&mut engine(&model, 1), &[shorter], &penalised(12))[0]);
}

#[test]
fn prompts_that_exceed_one_pass_are_taken_in_parts() {
    // 32 prompts of 100 tokens are more than six passes; those that started go on meanwhile.
    let model = random_model(4);
    let rows = random_rows(&[100; 34], 300, 5);
    let prompts: Vec<Vec<u32>> = rows.into_iter().map(|row| row.ids).collect();
    let together = run(&mut engine(&model, 2), &prompts, &penalised(10));
    let mut alone = engine(&model, 1);
    for i in [0, 5, 17, 31, 33] {
        assert_eq!(run(&mut alone, &prompts[i..=i], &penalised(10))[0], together[i], "prompt {i}");
    }
}

#[test]
fn a_watcher_sees_every_token_and_ends_its_prompt_only() {
    let model = random_model(5);
    let prompts = prompts(36, 12);
    let mut engine = engine(&model, 2);
    let full = run(&mut engine, &prompts, &penalised(10));
    let mut seen = vec![Vec::new(); prompts.len()];
    let watched = engine
        .generate(&prompts, &penalised(10), &mut |prompt, ids| {
            seen[prompt].push(ids.len());
            prompt % 3 != 0 || ids.len() < 1 + prompt % 5
        })
        .unwrap();
    for (i, (found, full)) in watched.iter().zip(&full).enumerate() {
        let stopped = i % 3 == 0;
        let len = if stopped { 1 + i % 5 } else { 10 };
        assert_eq!(found.ids, full.ids[..len], "prompt {i}");
        assert_eq!(found.finish, if stopped { Finish::Stop } else { Finish::Length });
        assert_eq!(seen[i], (1..=len).collect::<Vec<_>>(), "every token of prompt {i}, in order");
    }
}

#[test]
fn a_stop_id_ends_the_text_and_is_left_out() {
    let model = random_model(6);
    let prompts = prompts(3, 5);
    let mut engine = engine(&model, 1);
    let full = run(&mut engine, &prompts, &penalised(10));
    let stop = full[1].ids[4];
    let stopped = run(&mut engine, &prompts, &Decoding { stop_ids: vec![stop], ..penalised(10) });
    for (found, full) in stopped.iter().zip(&full) {
        let end = full.ids.iter().position(|&id| id == stop).unwrap_or(full.ids.len());
        assert_eq!(found.ids, full.ids[..end]);
    }
    assert_eq!(stopped[1].finish, Finish::Stop);
}
