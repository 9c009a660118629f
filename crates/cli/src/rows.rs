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

/// The rows of a session as its sites hold them, before each is split.
pub struct Shared {
    /// One for each site, in the order of reports.
    pub sites: Vec<Shard>,
    /// Test rows of each, where they have a source of their own, and that source.
    pub tests: Option<(Vec<Shard>, String)>,
    /// Where they came from, for the report.
    pub summary: DataSummary,
    /// Rows that were skipped, a sentence for each.
    pub bad: Vec<String>,
}

/// Reads, partitions and splits the rows that `config` names.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn for_session(config: &Config) -> Result<Rows> {
    shared(config)?.split(config)
}

/// Reads the rows of one site alone, all that `config` names, and splits them as [`for_session`] splits that site's.
///
/// # Errors
/// Unusable data, with the file, line or column at fault.
pub fn for_site(config: &Config, site: &str) -> Result<Rows> {
    let whole = |examples| Ok(vec![Shard { site: site.to_owned(), examples }]);
    let mut shared = read_shared(config, &whole)?;
    shared.summary.partition = "the site's own".into();
    shared.split(config)
}

/// Reads and partitions the rows that `config` names.
///
/// # Errors
/// Unusable data, with the file, line, column or site at fault.
pub fn shared(config: &Config) -> Result<Shared> {
    read_shared(config, &|examples| shards(config, examples))
}

fn read_shared(config: &Config, share: &dyn Fn(Vec<Example>) -> Result<Vec<Shard>>) -> Result<Shared> {
    let data = &config.data;
    let hub = Hub::from_env();
    let report = consilium_data::read(&data.source, &read_options(data, data.split.as_deref()), &hub)?;
    let summary = summary(config, &report);
    let bad = report.bad_rows.iter().map(ToString::to_string).collect();
    let sites = share(report.examples)?;
    let tests = if data.test_source.is_some() || data.test_split.is_some() {
        let source = data.test_source.as_deref().unwrap_or(&data.source);
        let test = consilium_data::read(source, &read_options(data, data.test_split.as_deref()), &hub)?;
        Some((share(test.examples)?, source.to_owned()))
    } else {
        None
    };
    Ok(Shared { sites, tests, summary, bad })
}

impl Shared {
    fn split(self, config: &Config) -> Result<Rows> {
        let Self { sites, tests, summary, bad } = self;
        let split: Result<Vec<SiteData>> = match &tests {
            Some((tests, source)) => {
                sites.iter().zip(tests).map(|(shard, test)| with_tests(config, shard, test, source)).collect()
            }
            None => sites.iter().map(|shard| split(config, shard, config.data.test_rows)).collect(),
        };
        Ok(Rows { sites: split?, summary, bad })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path, tests: bool) -> Config {
        let mut text = String::from("uuid,question,answer,ward\n");
        for row in 0..24 {
            let ward = ["north", "south/2"][row % 2];
            text.push_str(&format!("id-{row},\"What is\n{row}, please?\",\"\"\"{row}\"\" it is\",{ward}\n"));
        }
        let (train, test) = (dir.join("rows.csv"), dir.join("test.csv"));
        std::fs::write(&train, &text).unwrap();
        std::fs::write(&test, text.replace("id-", "test-")).unwrap();
        let mut config = Config::default();
        config.data = DataConfig {
            source: train.to_string_lossy().into_owned(),
            test_source: tests.then(|| test.to_string_lossy().into_owned()),
            split: None,
            test_split: None,
            sites: Vec::new(),
            train_rows: Some(5),
            validation_rows: 2,
            test_rows: 3,
            ..config.data
        };
        config.data.columns.category = Some("ward".into());
        config
    }

    #[test]
    fn a_site_alone_splits_its_rows_as_the_session_would() {
        for tests in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let config = config(dir.path(), tests);
            let together = for_session(&config).unwrap();
            let shared = shared(&config).unwrap();
            let own_tests = shared.tests.as_ref().map(|(tests, _)| tests.as_slice());
            let files = consilium_data::write_sites(dir.path(), &shared.sites, own_tests).unwrap();
            assert_eq!(files.len(), 2);
            for (file, expected) in files.iter().zip(&together.sites) {
                let place = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
                let mut alone = config.clone();
                alone.data.source = place(&file.file);
                alone.data.test_source = file.test.as_ref().map(|(name, _)| place(name));
                alone.data.columns = Default::default();
                alone.data.sites = vec![file.site.clone()];
                let rows = for_site(&alone, &file.site).unwrap();
                assert_eq!(rows.sites, std::slice::from_ref(expected), "{}", file.site);
            }
        }
    }
}
