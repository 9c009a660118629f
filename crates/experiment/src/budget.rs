//! Equal budgets: what each model may train before it is compared with the others.
//!
//! Equal budget means equal passes over each row. A local model takes exactly the steps of its site's federated
//! share, in one go with one schedule. The pooled model makes as many passes over all rows, with a batch as large as
//! the sites' batches together, and so takes as many steps as a site does when sites are of equal size.

use consilium_federation::{LocalWork, TrainTask, Training};

use crate::config::Config;
use crate::inputs::{TrainRows, training};

/// Steps that `rows` train in all rounds together.
pub(crate) fn session_steps(config: &Config, rows: &TrainRows) -> u64 {
    let rounds = u64::from(config.federation.rounds);
    match config.federation.local_work() {
        LocalWork::Epochs(epochs) => rounds * u64::from(epochs) * rows.steps_per_epoch(),
        LocalWork::Steps(steps) => rounds * steps,
    }
}

/// The name of the model that `site` trains alone.
pub fn local_model(site: &str) -> String {
    format!("local-{site}")
}

/// The training of a site alone.
pub(crate) fn local_task(config: &Config, rows: &TrainRows) -> TrainTask {
    TrainTask {
        site: Some(rows.name.clone()),
        ..unbroken(&training(config), &local_model(&rows.name), &rows.name, session_steps(config, rows))
    }
}

/// The training on all rows in one place.
pub(crate) fn pooled_task(config: &Config, rows: &TrainRows) -> TrainTask {
    unbroken(&training(config), "pooled", "pooled", session_steps(config, rows))
}

/// `steps` steps with one schedule and one optimiser; `stream` names the dropout masks.
pub(crate) fn unbroken(training: &Training, model: &str, stream: &str, steps: u64) -> TrainTask {
    TrainTask {
        model: model.into(),
        site: None,
        round: None,
        first_step: 0,
        steps,
        total_steps: steps,
        schedule: training.schedule_over(steps),
        schedule_from: 0,
        settings: training.settings(stream, 0),
        resume: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_data::Tokens;

    fn rows(name: &str, count: usize, config: &Config) -> TrainRows {
        let row = Tokens { ids: vec![1, 2], loss_from: 1, truncated: false };
        TrainRows::new(name, vec![row; count], &training(config))
    }

    #[test]
    fn local_and_pooled_pass_over_each_row_as_often_as_the_federation_does() {
        let config = Config::workshop();
        let sites = [rows("a", 150, &config), rows("b", 150, &config)];
        assert_eq!(local_task(&config, &sites[0]).steps, 25);
        let pooled = TrainRows::pooled(&sites, &training(&config));
        assert_eq!(pooled_task(&config, &pooled).steps, 25);
    }

    #[test]
    fn rounds_measured_in_steps_give_every_model_the_same_number() {
        let mut config = Config::default();
        config.federation.local_steps = Some(7);
        let sites = [rows("a", 1000, &config), rows("b", 10, &config)];
        let pooled = TrainRows::pooled(&sites, &training(&config));
        assert_eq!(local_task(&config, &sites[1]).steps, 35);
        assert_eq!(pooled_task(&config, &pooled).steps, 35);
    }
}
