//! The settings of TLS to Redis. A build without the feature `tls` has none, and its errors name the image that has.

use super::Env;
use crate::redis::TlsConfig;
#[cfg(feature = "tls")]
use crate::{
    redis::{RedisConfig, Servers, TlsError},
    system,
};

/// Returns the configuration of a URL that requires TLS, as it is without settings of certificates.
///
/// # Errors
/// This build has no TLS.
#[cfg(feature = "tls")]
#[expect(clippy::unnecessary_wraps, reason = "a build without TLS returns an error")]
pub(super) fn required() -> Result<TlsConfig, &'static str> {
    Ok(TlsConfig::default())
}

#[cfg(feature = "tls")]
impl Env {
    /// Reads the files of certificates, which only connections over TLS need. They are read again for each connection,
    /// but what is wrong with them now is an error of the start.
    pub(super) fn read_tls_settings(&mut self, redis: &mut RedisConfig) {
        let Some(tls) = &mut redis.tls else {
            for name in NAMES {
                if self.is_set(name) {
                    let problem = "no connection uses TLS: begin REDIS_URL with rediss://, rediss+sentinel:// or";
                    self.reject(name, format_args!("{problem} rediss+cluster://, or unset {name}"));
                }
            }
            return;
        };
        for (name, other) in [(CERTIFICATE, KEY), (KEY, CERTIFICATE)] {
            if self.is_set(name) && !self.is_set(other) {
                self.reject(other, format_args!("{name} is set, and needs it: set both"));
            }
        }
        for name in NAMES {
            if let Some(path) = self.raw(name)
                && let Err(error) = system::read_file(path)
            {
                self.reject(name, format_args!("cannot be read ({error})"));
            }
        }
        tls.ca = self.raw(CA).cloned();
        tls.client = self.raw(CERTIFICATE).cloned().zip(self.raw(KEY).cloned());
        let host = match &redis.servers {
            Servers::Unix(_) => return,
            Servers::Single(address) => address,
            Servers::Sentinel { sentinels: all, .. } | Servers::Cluster { seeds: all } => match all.first() {
                Some(address) => address,
                None => return,
            },
        };
        if let Err(error) = tls.open(&host.host, system::read_file) {
            let name = setting_of(error);
            let message = error.message();
            let problem = message.strip_prefix(name).unwrap_or(message).trim_start();
            self.reject(name, format_args!("{problem}"));
        }
    }

    /// Every setting of TLS is known here.
    pub(super) fn reject_tls_setting(&mut self, _: &str) {}
}

/// Returns the setting that an error of the start belongs to.
#[cfg(feature = "tls")]
fn setting_of(error: TlsError) -> &'static str {
    match error {
        TlsError::Unreadable(file) | TlsError::Invalid(file) => file.setting(),
        TlsError::KeyMismatch => KEY,
        _ => "REDIS_URL",
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn required() -> Result<TlsConfig, &'static str> {
    Err(NO_TLS)
}

#[cfg(not(feature = "tls"))]
impl Env {
    pub(super) fn read_tls_settings(&mut self, _: &mut crate::redis::RedisConfig) {}

    /// Rejects a variable that only a build with TLS reads.
    pub(super) fn reject_tls_setting(&mut self, name: &str) {
        if NAMES.contains(&name) {
            self.set_invalid(name, format_args!("{NO_TLS}"), super::setting_named("REDIS_URL"));
        }
    }
}

#[cfg(not(feature = "tls"))]
const NO_TLS: &str = concat!("this build has no TLS: use the image notch:", env!("CARGO_PKG_VERSION"), "-tls");

const NAMES: [&str; 3] = [CA, CERTIFICATE, KEY];

const CA: &str = "REDIS_CA";

const CERTIFICATE: &str = "REDIS_CLIENT_CERT";

const KEY: &str = "REDIS_CLIENT_KEY";
