//! `consilium doctor`: what this machine is, what a configuration will need, and whether the two fit.

mod machine;
mod needs;
mod probe;

use std::path::Path;

use anyhow::Result;
use consilium_engine::LlamaConfig;
use consilium_experiment::Config;
use serde::Serialize;

use super::print_json;
use crate::args::{DoctorArgs, Voice};
use crate::config::{self, Layer};
use crate::{bundle, inputs, rows, words};
use machine::Machine;
use needs::{Needs, Work};

/// Rows of the reference dataset have a median of 119 tokens.
const USUAL_ROW_TOKENS: u64 = 120;
/// And short answers.
const USUAL_ANSWER_TOKENS: u64 = 30;
/// Rows of a local file that are tokenised to learn their length.
const SAMPLED_ROWS: usize = 200;

/// The shape of HuggingFaceTB/SmolLM2-135M, so that the reference experiment can be judged without a download.
const SMOLLM2_135M: &str = r#"{"model_type": "llama", "hidden_act": "silu", "vocab_size": 49152, "hidden_size": 576,
"intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
"max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000, "tie_word_embeddings": true,
"bos_token_id": 0, "eos_token_id": 0}"#;

/// What is printed with `--json`.
#[derive(Serialize)]
struct Diagnosis {
    machine: Machine,
    model: String,
    needs: Needs,
    /// Where the tokens of a row come from: `measured` or `assumed`.
    row_tokens: &'static str,
    training_flops_per_second: f64,
    training_seconds: f64,
    answering_seconds_at_least: f64,
    checks: Vec<Check>,
}

/// One sentence of the verdict.
#[derive(Serialize)]
struct Check {
    ok: bool,
    text: String,
}

/// Looks, counts, measures and says what fits.
pub fn run(args: &DoctorArgs, voice: Voice) -> Result<()> {
    let mut flags = Layer::default();
    args.model.lower(&mut flags);
    args.data.lower(&mut flags)?;
    args.lora.lower(&mut flags)?;
    args.train.lower(&mut flags)?;
    args.federation.lower(&mut flags)?;
    let config = config::resolve(&args.run, &flags)?;
    let out = args.run.out.clone().unwrap_or_else(|| "runs".into());

    let machine = Machine::look(&out);
    let shape = shape(&config)?;
    let (work, row_tokens) = work(&config)?;
    let needs = Needs::of(&shape, &config, work);
    let speed = probe::training_flops_per_second(&shape, config.model.precision, config.threads)?;
    let checks = checks(&machine, &needs);
    let diagnosis = Diagnosis {
        model: config.model.id.clone(),
        row_tokens,
        training_flops_per_second: speed,
        training_seconds: needs.training_flops / speed,
        answering_seconds_at_least: needs.answering_flops / speed,
        machine,
        needs,
        checks,
    };
    if voice.json {
        return print_json(&diagnosis);
    }
    print(&diagnosis, &config, work);
    Ok(())
}

/// The model's sizes, without loading or downloading its weights where that can be avoided.
fn shape(config: &Config) -> Result<LlamaConfig> {
    let id = config.model.id.as_str();
    if config.model.path.is_none() && bundle::is_bundled(id) {
        return Ok(LlamaConfig::parse(bundle::model_config())?);
    }
    if config.model.path.is_none() && id == "HuggingFaceTB/SmolLM2-135M" && !Path::new(id).is_dir() {
        return Ok(LlamaConfig::parse(SMOLLM2_135M)?);
    }
    inputs::shape(config)
}

/// Rows and tokens: counted where the data is a file here, assumed otherwise.
fn work(config: &Config) -> Result<(Work, &'static str)> {
    if !Path::new(&config.data.source).exists() {
        let work = Work {
            sites: needs::sites(config).unwrap_or(5),
            rows_per_site: config.data.train_rows.unwrap_or(150) as u64,
            tokens_per_row: USUAL_ROW_TOKENS,
            tokens_per_answer: USUAL_ANSWER_TOKENS,
        };
        return Ok((work, "assumed"));
    }
    let rows = rows::for_session(config)?;
    let tokenizer = inputs::tokenizer(config)?;
    let template = inputs::template(&config.data)?;
    let sample: Vec<_> = rows.sites.iter().flat_map(|site| &site.train).take(SAMPLED_ROWS).collect();
    let (mut all, mut answers) = (0, 0);
    for example in &sample {
        let tokens = tokenizer.encode_example(&template, example, config.data.max_tokens)?;
        all += tokens.ids.len();
        answers += tokens.ids.len() - tokens.loss_from;
    }
    let sites = rows.sites.len() as u64;
    let total: usize = rows.sites.iter().map(|site| site.train.len()).sum();
    let work = Work {
        sites,
        rows_per_site: (total as u64).div_ceil(sites.max(1)),
        tokens_per_row: all.div_ceil(sample.len().max(1)) as u64,
        tokens_per_answer: answers.div_ceil(sample.len().max(1)) as u64,
    };
    Ok((work, "measured"))
}

fn checks(machine: &Machine, needs: &Needs) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |ok, text| checks.push(Check { ok, text });
    let peak = words::bytes(needs.peak_bytes);
    match machine.free_memory_bytes {
        Some(free) => check(
            free > needs.peak_bytes,
            format!("memory: about {peak} needed, {} free", words::bytes(free)),
        ),
        None => check(true, format!("memory: about {peak} needed; this system does not say what is free")),
    }
    // A run keeps an adapter and its optimiser for each model, and the answers.
    let disk = 20 * needs.update_bytes + 100_000_000;
    match machine.free_disk_bytes {
        Some(free) => {
            check(
                free > disk,
                format!("disk: about {} needed, {} free", words::bytes(disk), words::bytes(free)),
            );
        }
        None => check(true, format!("disk: about {} needed", words::bytes(disk))),
    }
    if cfg!(target_arch = "x86_64") {
        let fast = machine.features.contains(&"avx2") && machine.features.contains(&"fma");
        let text = if fast {
            "processor: has the vector instructions that the engine is tuned for"
        } else {
            "processor: no AVX2 and FMA; everything works, several times slower"
        };
        check(fast, text.to_owned());
    }
    checks
}

fn print(diagnosis: &Diagnosis, config: &Config, work: Work) {
    let Diagnosis { machine, needs, .. } = diagnosis;
    let known = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), words::bytes);
    println!("machine");
    println!(
        "  {} on {}, {} cores, {}",
        machine.cpu,
        machine.system,
        machine.cores,
        machine.features.join(" ")
    );
    println!(
        "  memory {}, free {}; disk free {}",
        known(machine.memory_bytes),
        known(machine.free_memory_bytes),
        known(machine.free_disk_bytes)
    );
    println!("model {}", diagnosis.model);
    println!(
        "  {} parameters: {} in f32, {} in bf16, {} in int8",
        words::count(needs.parameters),
        words::bytes(needs.base_f32_bytes),
        words::bytes(needs.base_bf16_bytes),
        words::bytes(needs.base_int8_bytes)
    );
    println!(
        "  adapter of rank {}: {} trainable parameters ({:.4} %), {} an update",
        config.lora.rank,
        words::count(needs.trainable),
        100.0 * needs.trainable as f64 / (needs.trainable + needs.parameters) as f64,
        words::bytes(needs.update_bytes)
    );
    println!(
        "session: {} sites, {} rows each, {} tokens a row ({}), {} rounds",
        work.sites, work.rows_per_site, work.tokens_per_row, diagnosis.row_tokens, config.federation.rounds
    );
    println!(
        "  {} travel in all; whole models would be {}",
        words::bytes(needs.session_bytes),
        words::bytes(needs.full_model_session_bytes)
    );
    println!(
        "  memory: base {}, adapter and optimiser {}, activations {}, answering {}",
        words::bytes(needs.base_held_bytes),
        words::bytes(needs.optimiser_bytes),
        words::bytes(needs.activation_bytes),
        words::bytes(needs.cache_bytes)
    );
    println!("time (from a measured {:.1} GFLOP/s of training)", diagnosis.training_flops_per_second / 1e9);
    println!(
        "  training {} row passes (local, federated, pooled): about {}",
        words::count(needs.row_passes),
        words::seconds(diagnosis.training_seconds)
    );
    println!(
        "  answering {} questions: at least {}",
        words::count(needs.questions),
        words::seconds(diagnosis.answering_seconds_at_least)
    );
    println!("verdict");
    for check in &diagnosis.checks {
        println!("  {} {}", if check.ok { "ok  " } else { "FAIL" }, check.text);
    }
}
