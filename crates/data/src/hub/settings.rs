//! Where the hub is and where its cache lies, by the same variables as in Python.

use std::path::PathBuf;

/// Settings of a [`Hub`](super::Hub).
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Base address without a slash at its end.
    pub endpoint: String,
    /// The folder of `models--owner--name`, `datasets--owner--name`.
    pub cache: PathBuf,
    /// For private and gated repositories.
    pub token: Option<String>,
    /// Ask nobody, use what the cache holds.
    pub offline: bool,
    /// How often a broken download is taken up again.
    pub retries: usize,
}

impl HubSettings {
    /// From the process's environment.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// From variables looked up by name:
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `HF_HOME` | home of cache and token file | `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
    /// | `HF_HUB_CACHE` | the cache itself | `$HF_HOME/hub` |
    /// | `HF_TOKEN` | access token | the file `$HF_HOME/token`, if there is one |
    /// | `HF_ENDPOINT` | address of the hub | `https://huggingface.co` |
    /// | `HF_HUB_OFFLINE` | `1`, `true`, `yes` or `on`: the cache only | off |
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let var =
            |name: &str| lookup(name).map(|value| value.trim().to_string()).filter(|value| !value.is_empty());
        let home = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let caches = var("XDG_CACHE_HOME").map(PathBuf::from);
            let user = || std::env::home_dir().unwrap_or_default().join(".cache");
            caches.unwrap_or_else(user).join("huggingface")
        });
        let token_file = || {
            let text = std::fs::read_to_string(home.join("token")).ok()?;
            Some(text.trim().to_string()).filter(|token| !token.is_empty())
        };
        let offline = var("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str()));
        Self {
            endpoint: var("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_string())
                .trim_end_matches('/')
                .to_string(),
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: var("HF_TOKEN").or_else(token_file),
            offline,
            retries: 3,
        }
    }
}

impl Default for HubSettings {
    fn default() -> Self {
        Self::from_env()
    }
}

impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(set)"))
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_vars(|name| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string())
        })
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let all = settings(&[
            ("HF_HOME", "/nowhere/hf"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "True"),
        ]);
        assert_eq!(all.cache, PathBuf::from("/nowhere/hf/hub"));
        assert_eq!(all.token.as_deref(), Some("hf_secret"));
        assert_eq!(all.endpoint, "http://mirror");
        assert!(all.offline);
        assert!(!format!("{all:?}").contains("secret"), "a token is never shown");

        let none = settings(&[("XDG_CACHE_HOME", "/nowhere"), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!(none.cache, PathBuf::from("/nowhere/huggingface/hub"));
        assert_eq!(none.endpoint, "https://huggingface.co");
        assert!(!none.offline && none.token.is_none());
        assert_eq!(settings(&[("HF_HUB_CACHE", "/c")]).cache, PathBuf::from("/c"));
    }

    #[test]
    fn a_token_file_is_used_when_no_variable_is_set() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert_eq!(settings(&[("HF_HOME", home), ("HF_TOKEN", "t")]).token.as_deref(), Some("t"));
    }
}
