//! The rows of a run, as the configuration names them: read, partitioned, split.

use anyhow::Result;
use consilium_data::{Columns, Example, Hub, Partition, ReadOptions, ReadReport, Shard, Split};
use consilium_eval::summary::DataSummary;
use consilium_experiment::SiteData;
use consilium_experiment::config::{Config, DataConfig, PartitionConfig};

use crate::failure::Failure;

/// The rows of a run.
pub struct Rows {
    /// One for each site, in the order of reports.
    pub sites: Vec<SiteData>,
    /// Where they came from, for the report.
    pub summary: DataSummary,
    /// Rows that were skipped, a sentence for each.
    pub bad: Vec<String>,
}

/// How to read the rows of `data`.
pub fn read_options(data: &DataConfig, split: Option<&str>) -> ReadOptions {
    let usual = Columns::default();
    ReadOptions {
        columns: Columns {
            question: data.columns.question.clone().unwrap_or(usual.question),
            answer: data.columns.answer.clone().unwrap_or(usual.answer),
            category: data.columns.category.clone().or(usual.category),
            id: data.columns.id.clone().or(usual.id),
        },
        filter: data.filter.iter().map(|(column, values)| (column.clone(), values.clone())).collect(),
        max_bad_rows: data.max_bad_rows,
        split: split.map(str::to_owned),
        ..ReadOptions::default()
    }
}

/// Reads, partitions and splits the rows that `config` names.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn for_session(config: &Config) -> Result<Rows> {
    let data = &config.data;
    let hub = Hub::from_env();
    let report = consilium_data::read(&data.source, &read_options(data, data.split.as_deref()), &hub)?;
    let summary = summary(config, &report);
    let bad = report.bad_rows.iter().map(ToString::to_string).collect();
    let own = shards(config, report.examples)?;
    let sites: Result<Vec<SiteData>> = if data.test_source.is_some() || data.test_split.is_some() {
        let source = data.test_source.as_deref().unwrap_or(&data.source);
        let test = consilium_data::read(source, &read_options(data, data.test_split.as_deref()), &hub)?;
        let tests = shards(config, test.examples)?;
        own.iter().zip(&tests).map(|(shard, test)| with_tests(config, shard, test, source)).collect()
    } else {
        own.iter().map(|shard| split(config, shard, data.test_rows)).collect()
    };
    Ok(Rows { sites: sites?, summary, bad })
}

fn summary(config: &Config, report: &ReadReport) -> DataSummary {
    let partition = match &config.data.partition {
        PartitionConfig::Category => {
            format!("by {}", report.columns.category.as_deref().unwrap_or("category"))
        }
        PartitionConfig::Iid { .. } => "iid".into(),
        PartitionConfig::Dirichlet { alpha, .. } => format!("Dirichlet, alpha {alpha}"),
        PartitionConfig::Sizes { .. } => "by sizes".into(),
    };
    DataSummary {
        source: config.data.source.clone(),
        sha256: report.sha256.clone(),
        rows: report.examples.len() as u64,
        bad_rows: report.bad_count as u64,
        partition,
    }
}

/// The rows that one place trains on.
pub struct TrainingRows {
    /// The site's name, or `all`.
    pub name: String,
    /// Rows in the order of the file, site after site.
    pub rows: Vec<Example>,
    /// What a user should know about them.
    pub notes: Vec<String>,
}

/// Reads every row of the configured sites, or of the whole source where none is named; none is held back.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn for_training(config: &Config) -> Result<TrainingRows> {
    let data = &config.data;
    let options = read_options(data, data.split.as_deref());
    let report = consilium_data::read(&data.source, &options, &Hub::from_env())?;
    let notes = report.bad_rows.iter().take(5).map(|row| format!("skipped {row}")).collect();
    let name = match &data.sites[..] {
        [site] => site.clone(),
        _ => "all".to_owned(),
    };
    let shards = named_or_whole(config, report.examples)?;
    let mut rows = Vec::new();
    for shard in shards {
        rows.extend(match data.train_rows {
            Some(wanted) if config.train.shuffle => drawn(config, &shard, wanted)?,
            wanted => shard.examples.into_iter().take(wanted.unwrap_or(usize::MAX)).collect(),
        });
    }
    Ok(TrainingRows { name, rows, notes })
}

/// Reads the rows to be asked: those of the test source or split where one is configured, else of the source itself,
/// at most `eval.questions_per_site` of each category.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn for_questions(config: &Config) -> Result<Vec<Example>> {
    let data = &config.data;
    let source = data.test_source.as_deref().unwrap_or(&data.source);
    let split = data.test_split.as_deref().or(data.split.as_deref());
    let report = consilium_data::read(source, &read_options(data, split), &Hub::from_env())?;
    let Some(limit) = config.eval.questions_per_site else {
        return Ok(named_or_whole(config, report.examples)?
            .into_iter()
            .flat_map(|shard| shard.examples)
            .collect());
    };
    let mut rows = Vec::new();
    for shard in by_category(config, report.examples)? {
        rows.extend(drawn(config, &shard, limit.min(shard.examples.len()))?);
    }
    Ok(rows)
}

/// `shuffle(seed).select(range(wanted))`.
fn drawn(config: &Config, shard: &Shard, wanted: usize) -> Result<Vec<Example>> {
    Ok(consilium_data::split(shard, Some(wanted), 0, 0, config.seed)?.train)
}

fn named_or_whole(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    match config.data.sites.is_empty() {
        true => Ok(vec![Shard { site: "all".into(), examples }]),
        false => by_category(config, examples),
    }
}

fn by_category(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    let names = (!config.data.sites.is_empty()).then_some(config.data.sites.as_slice());
    Ok(consilium_data::partition(examples, &Partition::ByCategory, names, config.seed)?)
}

fn shards(config: &Config, examples: Vec<Example>) -> Result<Vec<Shard>> {
    let how = match &config.data.partition {
        PartitionConfig::Category => Partition::ByCategory,
        PartitionConfig::Iid { sites } => Partition::Iid { sites: *sites },
        PartitionConfig::Dirichlet { sites, alpha } => Partition::Dirichlet { sites: *sites, alpha: *alpha },
        PartitionConfig::Sizes { rows } => Partition::Sizes(rows.clone()),
    };
    let names = (!config.data.sites.is_empty()).then_some(config.data.sites.as_slice());
    Ok(consilium_data::partition(examples, &how, names, config.seed)?)
}

fn split(config: &Config, shard: &Shard, test_rows: usize) -> Result<SiteData> {
    let data = &config.data;
    let Split { train, validation, test } =
        consilium_data::split(shard, data.train_rows, data.validation_rows, test_rows, config.seed)?;
    Ok(SiteData { name: shard.site.clone(), train, validation, test })
}

/// Test rows from their own source: `shuffle(seed).select(range(test_rows))`, as the training rows are drawn.
fn with_tests(config: &Config, shard: &Shard, test: &Shard, source: &str) -> Result<SiteData> {
    let wanted = config.data.test_rows;
    if test.examples.len() < wanted {
        let found = test.examples.len();
        return Err(Failure::data(format!(
            "site '{}' has {found} test rows in {source}, but {wanted} are asked for",
            test.site
        ))
        .hint(format!("--test-rows {found}"))
        .into());
    }
    let mut rows = split(config, shard, 0)?;
    rows.test = drawn(config, test, wanted)?;
    Ok(rows)
}
