//! What an operator sees of a server while it serves: every session with its sites, and what has come and gone.

use std::collections::BTreeMap;

use consilium_net::server::Counters;
use consilium_net::server::store::Status;
use consilium_net::server::views::SessionView;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::words;

/// Sites of one session that get a line of their own.
const MOST_SITES: usize = 12;
/// Sessions that are shown, the newest; those that are over first give way.
const MOST_SESSIONS: usize = 6;
/// Room for a name.
const NAME_WIDTH: usize = 28;
/// Length of a session's bar, characters.
const BAR: usize = 24;
/// A site that has been silent for longer is shown as away, milliseconds; training is silent too.
const AWAY_MS: f64 = 60_000.0;

/// Lines at the foot of the terminal; they vanish when the board is dropped.
pub struct Board {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Board {
    /// An empty board on standard output.
    pub fn new() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stdout()), lines: Vec::new() }
    }

    /// Shows these lines and no others.
    pub fn draw(&mut self, lines: &[String]) {
        while self.lines.len() < lines.len() {
            let line = self.bars.add(ProgressBar::new_spinner());
            line.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
            self.lines.push(line);
        }
        for gone in self.lines.drain(lines.len()..) {
            gone.finish_and_clear();
            self.bars.remove(&gone);
        }
        for (line, text) in self.lines.iter().zip(lines) {
            if line.message() != *text {
                line.set_message(text.clone());
            }
        }
    }

    /// Above the board, to stay.
    pub fn say(&self, line: &str) {
        // A terminal that went away is no reason to stop a server.
        let _ = self.bars.println(line);
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.draw(&[]);
    }
}

/// What the board shows of a server.
pub struct Seen {
    /// Every session, oldest first.
    pub sessions: Vec<SessionView>,
    /// Time since each site was last heard of, milliseconds.
    pub silent_ms: BTreeMap<String, f64>,
    /// What has been counted.
    pub counters: Counters,
    /// Why nothing can be acknowledged at the moment, if so.
    pub trouble: Option<String>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

impl Seen {
    /// The board's lines.
    pub fn lines(&self) -> Vec<String> {
        let mut shown: Vec<&SessionView> = self.sessions.iter().collect();
        while shown.len() > MOST_SESSIONS {
            let first_over = shown.iter().position(|session| session.status.is_over());
            shown.remove(first_over.unwrap_or(0));
        }
        let mut lines = vec![String::new()];
        for session in &shown {
            lines.push(self.session(session));
            if !session.status.is_over() {
                lines.extend(self.sites(session));
            }
        }
        let hidden = self.sessions.len() - shown.len();
        if hidden > 0 {
            lines.push(format!("  and {hidden} more: consilium session list"));
        }
        lines.push(self.foot());
        lines
    }

    fn since(&self, ms: u64) -> String {
        words::seconds(self.now_ms.saturating_sub(ms) as f64 / 1e3)
    }

    fn session(&self, session: &SessionView) -> String {
        let ended = match session.opened_ms {
            Some(_) => session.round.saturating_sub(1),
            None => session.round,
        };
        let done = (BAR as u64 * u64::from(ended) / u64::from(session.rounds.max(1))) as usize;
        let bar = format!("{}{}", "━".repeat(done.min(BAR)), "─".repeat(BAR.saturating_sub(done)));
        let state = match (session.status, session.opened_ms) {
            (Status::Gathering, _) => {
                let came = session.attended.len();
                format!("{came} of {} sites have reported", session.roster.len().max(came))
            }
            (Status::Running, Some(opened)) => {
                let left = session.deadline_ms.unwrap_or(opened).saturating_sub(self.now_ms);
                format!(
                    "round {} of {} for {}, {} left",
                    session.round,
                    session.rounds,
                    self.since(opened),
                    words::seconds(left as f64 / 1e3)
                )
            }
            (Status::Running, None) => format!("averaging round {} of {}", session.round, session.rounds),
            (status, _) => {
                format!("{}, {} of {} rounds made a model", status.word(), session.commits, session.rounds)
            }
        };
        format!("{} {bar} {state}", name(&session.name, 0))
    }

    fn sites(&self, session: &SessionView) -> Vec<String> {
        // Those that are waited for first: there the operator may have something to do.
        let mut sites: Vec<&String> = session.roster.iter().collect();
        let has = |names: &[String], site: &String| names.contains(site);
        sites.sort_by_key(|site| (!has(&session.awaited, site), (*site).clone()));
        let (named, rest) = sites.split_at(sites.len().min(MOST_SITES));
        let mut lines: Vec<String> =
            named.iter().map(|site| format!("{} {}", name(site, 2), self.site(session, site))).collect();
        if !rest.is_empty() {
            let waited = rest.iter().filter(|site| has(&session.awaited, site)).count();
            let arrived = rest.iter().filter(|site| has(&session.arrived, site)).count();
            lines.push(format!("  and {} more: {arrived} have sent, {waited} are awaited", rest.len()));
        }
        lines
    }

    fn site(&self, session: &SessionView, site: &String) -> String {
        let silent = self.silent_ms.get(site);
        let heard = match silent {
            None => "not heard of since the server's start".to_owned(),
            Some(ms) => format!("heard of {} ago", words::seconds(ms / 1e3)),
        };
        let here = silent.is_some_and(|ms| *ms <= AWAY_MS);
        if session.status == Status::Gathering {
            let reported = if session.attended.contains(site) { "has reported" } else { "is expected" };
            format!("{reported}, {heard}")
        } else if session.arrived.contains(site) {
            "✓ update accepted".to_owned()
        } else if session.awaited.contains(site) && here {
            format!("… has the task, {heard}")
        } else if session.awaited.contains(site) {
            format!("? awaited, {heard}")
        } else if session.opened_ms.is_some() {
            "– not in this round".to_owned()
        } else {
            heard
        }
    }

    fn foot(&self) -> String {
        let here = self.silent_ms.values().filter(|ms| **ms <= AWAY_MS).count();
        let accepted = self.counters.updates.get("accepted").copied().unwrap_or(0);
        let others = self.counters.updates.values().sum::<u64>() - accepted;
        let foot = format!(
            "sites here: {here}; updates: {accepted} accepted, {others} not; {} in, {} out",
            words::bytes(self.counters.bytes_in),
            words::bytes(self.counters.bytes_out)
        );
        match &self.trouble {
            None => foot,
            Some(why) => format!("{foot}; NOTHING IS ACKNOWLEDGED: {why}"),
        }
    }
}

/// A name in its column.
fn name(name: &str, indent: usize) -> String {
    let width = NAME_WIDTH - indent;
    format!("{}{:<width$}", " ".repeat(indent), words::clip(name, width))
}

#[cfg(test)]
mod tests {
    use consilium_net::server::store::ModelRow;

    use super::*;

    fn session(sites: usize) -> SessionView {
        let names: Vec<String> = (0..sites).map(|k| format!("site-{k:02}")).collect();
        let model = ModelRow {
            session: "s".into(),
            round: 0,
            adapter: String::new(),
            archive: String::new(),
            bytes: 1,
            created: 0,
        };
        SessionView {
            id: "s".into(),
            name: "study".into(),
            status: Status::Running,
            round: 3,
            rounds: 4,
            commits: 2,
            roster: names.clone(),
            attended: names.clone(),
            awaited: names[1..].to_vec(),
            arrived: names[..1].to_vec(),
            opened_ms: Some(10_000),
            deadline_ms: Some(70_000),
            seed: model.clone(),
            model,
            created: 0,
        }
    }

    fn lines(sessions: &[SessionView], trouble: Option<&str>) -> Vec<String> {
        let silent_ms = BTreeMap::from([("site-01".into(), 3_000.0), ("site-02".into(), 200_000.0)]);
        let mut counters = Counters::default();
        counters.bytes_in = 1_500;
        let (sessions, trouble) = (sessions.to_vec(), trouble.map(str::to_owned));
        Seen { sessions, silent_ms, counters, trouble, now_ms: 22_000 }.lines()
    }

    #[test]
    fn a_session_shows_its_round_its_time_and_who_is_awaited() {
        let shown = lines(&[session(4)], None);
        assert!(shown[1].starts_with("study "), "{shown:?}");
        assert!(
            shown[1].ends_with("━━━━━━━━━━━━──────────── round 3 of 4 for 12.0 s, 48.0 s left"),
            "{shown:?}"
        );
        assert!(shown[2].contains("site-01") && shown[2].ends_with("… has the task, heard of 3.0 s ago"));
        assert!(shown[3].contains("site-02") && shown[3].ends_with("? awaited, heard of 3 min 20 s ago"));
        assert!(shown[4].contains("site-03") && shown[4].contains("not heard of"));
        assert!(shown[5].contains("site-00") && shown[5].ends_with("✓ update accepted"));
        assert_eq!(shown[6], "sites here: 1; updates: 0 accepted, 0 not; 1.50 kB in, 0 B out");
        assert!(lines(&[], Some("disk full"))[1].ends_with("NOTHING IS ACKNOWLEDGED: disk full"));
    }

    #[test]
    fn many_sites_and_sessions_fit_on_a_screen() {
        let over = |k: usize| SessionView {
            name: format!("old-{k}"),
            status: Status::Finished,
            opened_ms: None,
            ..session(2)
        };
        let mut sessions: Vec<SessionView> = (0..9).map(over).collect();
        sessions.insert(0, session(40));
        let shown = lines(&sessions, None);
        assert_eq!(shown.len(), 1 + 1 + MOST_SITES + 1 + (MOST_SESSIONS - 1) + 1 + 1, "{shown:?}");
        assert!(shown[2 + MOST_SITES].contains("and 28 more: 1 have sent, 27 are awaited"), "{shown:?}");
        assert!(shown[1].starts_with("study"), "what goes on stays: {shown:?}");
        assert!(shown.iter().any(|line| line.contains("and 4 more: consilium session list")), "{shown:?}");
    }
}
