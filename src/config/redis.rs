//! The choice of the store, and the settings of Redis.
//!
//! A variable `REDIS_*` that notch does not read stops the start, because it is probably misspelt. Variables that
//! Kubernetes or Docker set for a service called redis are exempt.

use super::settings::{REDIS_PREFIX, SETTINGS, nearest_setting, setting_named};
use super::values::{self, MAX_DB, MAX_PASSWORD, REDIS_PORT, SENTINEL_PORT};
use super::{Env, Store};
use crate::ledger::Fsync;
use crate::log::printable;
use crate::redis::{Address, Credentials, RedisConfig, Servers};
use crate::system;

impl Env {
    // Inlined, its result would be moved field by field.
    #[inline(never)]
    pub(super) fn store(&mut self) -> Store {
        let fsyncs = [Fsync::Always, Fsync::EverySecond, Fsync::Never];
        let fsync = fsyncs[self.choice("FSYNC", &["always", "everysec", "never"])];
        self.reject_unknown_redis_setting();
        let Some((by, mut redis)) = self.redis_servers() else {
            self.reject_redis_setting_without_host();
            return Store::Ledger(self.ledger_path(), fsync);
        };
        if self.is_set("FSYNC") {
            self.reject("FSYNC", format_args!("applies to the ledger only, and {by} is set: unset one of them"));
        }
        self.read_credentials(&mut redis.credentials, &REDIS);
        self.read_sentinel_settings(&mut redis.servers);
        self.read_tls_settings(&mut redis);
        redis.acks = self.number("REDIS_ACKS", 0, MAX_ACKS) as u32;
        Store::Redis(redis)
    }

    /// Reads the addresses of Redis, and the name of the setting that has them; `None` if none is set.
    fn redis_servers(&mut self) -> Option<(&'static str, RedisConfig)> {
        let settings = ["REDIS_URL", "REDIS_SENTINELS", "REDIS_HOST"];
        let values = settings.map(|name| self.value(name));
        let at = values.iter().position(|value| !value.is_empty())?;
        let (name, value) = (settings[at], &*values[at]);
        let excluded: &[&str] = match name {
            "REDIS_URL" => {
                &["REDIS_SENTINELS", "REDIS_MASTER_NAME", "REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_DB"]
            }
            "REDIS_SENTINELS" => &["REDIS_HOST", "REDIS_PORT"],
            _ => &["REDIS_MASTER_NAME"],
        };
        let mut redis = RedisConfig {
            servers: Servers::Single(Address { host: value.to_owned(), port: REDIS_PORT }),
            credentials: Credentials::default(),
            db: 0,
            acks: 0,
            tls: None,
        };
        match name {
            "REDIS_URL" => match values::parse_redis_url(value) {
                Ok(parsed) => redis = parsed,
                Err(problem) => self.reject(name, format_args!("{problem}")),
            },
            "REDIS_SENTINELS" => {
                let sentinels = values::parse_addresses(value, SENTINEL_PORT).unwrap_or_else(|problem| {
                    self.reject(name, format_args!("{problem}"));
                    Vec::new()
                });
                let master = self.value("REDIS_MASTER_NAME");
                let master = values::parse_master_name(&master).unwrap_or_else(|problem| {
                    self.reject("REDIS_MASTER_NAME", format_args!("{problem}"));
                    master
                });
                redis.servers = Servers::Sentinel { sentinels, name: master, credentials: Credentials::default() };
            }
            _ => redis.servers = Servers::Single(Address { host: value.to_owned(), port: self.redis_port() }),
        }
        if name != "REDIS_URL" {
            redis.db = self.number("REDIS_DB", 0, MAX_DB) as u32;
        }
        excluded.iter().for_each(|other| self.reject_both(name, other));
        Some((name, redis))
    }

    /// Reads the user and password of the Sentinels. Rejects them if there is no Sentinel.
    fn read_sentinel_settings(&mut self, servers: &mut Servers) {
        let Servers::Sentinel { credentials, .. } = servers else {
            for name in [SENTINEL.username, SENTINEL.password, SENTINEL.file] {
                if self.is_set(name) {
                    self.reject(name, format_args!("no Sentinel is set: set REDIS_SENTINELS, or unset {name}"));
                }
            }
            return;
        };
        self.read_credentials(credentials, &SENTINEL);
    }

    /// Rejects a variable `REDIS_*` that notch does not read.
    fn reject_unknown_redis_setting(&mut self) {
        let is_unknown = |name: &str, value: &str| {
            let is_known = SETTINGS.iter().any(|setting| setting.name == name) || STACK_VARIABLES.contains(&name);
            name.starts_with(REDIS_PREFIX) && !value.is_empty() && !is_known && !is_service_variable(name, value)
        };
        let unknown = self.variables.iter().find_map(|(name, value)| {
            let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
            is_unknown(&name, &value).then(|| name.into_owned())
        });
        if let Some(name) = unknown {
            self.reject_tls_setting(&name);
            let nearest = nearest_setting(&name);
            let problem = format_args!("unknown setting: the nearest is {}", nearest.name);
            self.set_invalid(&printable(&name), problem, nearest);
        }
    }

    /// Rejects a setting of Redis if no host is set, because visits would be counted in a ledger without notice.
    fn reject_redis_setting_without_host(&mut self) {
        // Those of Sentinels first, because they show which of the three is missing.
        for name in ["REDIS_MASTER_NAME", SENTINEL.username, SENTINEL.password, SENTINEL.file] {
            if self.is_set(name) {
                let problem = format_args!("no Sentinel is set: set REDIS_SENTINELS, or unset {name}");
                self.set_invalid(name, problem, setting_named("REDIS_SENTINELS"));
            }
        }
        for name in SETTINGS.iter().map(|setting| setting.name).filter(|name| name.starts_with(REDIS_PREFIX)) {
            if self.is_set(name) {
                let problem = format_args!("neither REDIS_HOST nor REDIS_URL is set: set one of them, or unset {name}");
                self.set_invalid(name, problem, setting_named("REDIS_HOST"));
            }
        }
    }

    /// Reads `REDIS_PORT`. The port in the value that Kubernetes sets is right if the host is that of the service.
    fn redis_port(&mut self) -> u16 {
        let text = self.value_or_default("REDIS_PORT");
        if text.starts_with("udp://") || text.starts_with("sctp://") {
            return REDIS_PORT;
        }
        values::parse_port(&text).unwrap_or_else(|| {
            self.reject_value("REDIS_PORT", &text, format_args!("a number from 1 to {}", u16::MAX));
            REDIS_PORT
        })
    }

    /// Adds user name and password from their own variables to what the URL contains.
    fn read_credentials(&mut self, credentials: &mut Credentials, names: &CredentialNames) {
        for name in [names.password, names.file] {
            if self.is_set(name) && credentials.password.is_some() {
                self.reject(name, format_args!("REDIS_URL has a password too: set only one of them"));
            }
        }
        if self.is_set(names.file) {
            self.reject_both(names.file, names.password);
        }
        let username = self.value(names.username);
        if !username.is_empty() {
            credentials.username = Some(username);
        }
        if let Some(content) = self.password_content(names) {
            match values::parse_password(content) {
                Ok(text) => credentials.password = Some(text),
                Err(problem) => self.reject(self.password_variable(names), format_args!("the password {problem}")),
            }
        }
        let user_variable = if self.is_set(names.username) { names.username } else { "REDIS_URL" };
        let Some(username) = &credentials.username else { return };
        if username.bytes().any(|byte| byte <= b' ' || byte == b'\x7f') {
            self.reject(user_variable, format_args!("no user name of Redis contains a space or a control character"));
        }
        if credentials.password.is_none() {
            self.reject(names.password, format_args!("{user_variable} sets a user, but no password is set"));
        }
    }

    /// Returns the name of the variable that contains the password or the path of its file.
    fn password_variable(&self, names: &CredentialNames) -> &'static str {
        if self.is_set(names.file) { names.file } else { names.password }
    }

    /// Returns the content of the variable or the file; `None` if neither is set, or the file cannot be read.
    fn password_content(&mut self, names: &CredentialNames) -> Option<Vec<u8>> {
        let name = self.password_variable(names);
        let value = self.raw(name)?;
        if name == names.password {
            return Some(value.as_encoded_bytes().to_vec());
        }
        let content = system::read_bytes(value, MAX_PASSWORD);
        content.map_err(|error| self.reject(name, format_args!("cannot be read ({error})"))).ok()
    }
}

/// The variables of a user and its password.
struct CredentialNames {
    username: &'static str,
    password: &'static str,
    file: &'static str,
}

const REDIS: CredentialNames =
    CredentialNames { username: "REDIS_USERNAME", password: "REDIS_PASSWORD", file: "REDIS_PASSWORD_FILE" };

const SENTINEL: CredentialNames = CredentialNames {
    username: "REDIS_SENTINEL_USERNAME",
    password: "REDIS_SENTINEL_PASSWORD",
    file: "REDIS_SENTINEL_PASSWORD_FILE",
};

/// Returns whether this is one of the variables that Kubernetes sets for each service of a namespace, or Docker for a
/// link: `REDIS_SERVICE_HOST`, `REDIS_PORT_6379_TCP_ADDR`, and the same for a service called `redis-something`.
fn is_service_variable(name: &str, value: &str) -> bool {
    const PORT: &[u8] = b"_PORT_";
    let is_numbered_port = |part: &[u8]| part.starts_with(PORT) && part[PORT.len()].is_ascii_digit();
    ["_SERVICE_HOST", "_SERVICE_PORT", "_ENV_"].iter().any(|part| name.contains(part))
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.as_bytes().windows(PORT.len() + 1).any(is_numbered_port)
        || (name.ends_with("_NAME") && value.starts_with('/'))
}

/// Most replicas that can be required to acknowledge.
const MAX_ACKS: u64 = 16;

/// Variables of the Compose stack that configure or build its Redis, not notch.
const STACK_VARIABLES: [&str; 3] = ["REDIS_ADMIN_PASSWORD", "REDIS_ADMIN_PASSWORD_FILE", "REDIS_IMAGE"];
