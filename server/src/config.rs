//! What to run: from the command line or from a file, checked before anything starts.

use crate::args::{DevArgs, class_pool};
use holdfast_core::{profile::Profile, topology::Place};
use holdfast_gateway_server::{Domains, DoorTls, Doorway, TlsError, TlsFiles};
use serde::Deserialize;
use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

/// Every shard is verified once in this time, unless told otherwise.
const SCRUB_PERIOD: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The longest grace period that makes sense: a year.
const GRACE_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where identity, credentials and metadata are.
    pub data: PathBuf,
    pub s3: SocketAddr,
    /// How the S3 door is called.
    pub door: DoorConfig,
    pub metrics: SocketAddr,
    /// Where devices sync.
    pub sync: SocketAddr,
    pub devices: Vec<DeviceConfig>,
    pub profile: Profile,
    /// Pools for storage classes, on the same devices.
    pub pools: Vec<(String, Profile)>,
    pub gc_grace: Duration,
    /// Every shard is verified once in this time.
    pub scrub_period: Duration,
    /// How long lifecycle rules take a day to be.
    pub lifecycle_day: Duration,
    /// Access and secret key; made and kept where not given.
    pub keys: Option<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig {
    pub dir: PathBuf,
    pub place: Place,
}

/// How a gateway's S3 door is called, and whether it speaks TLS.
#[derive(Debug, Clone, Default)]
pub struct DoorConfig {
    pub domains: Domains,
    pub tls: Option<TlsFiles>,
    /// What addresses of the door begin with, as others reach it.
    pub public_url: Option<String>,
}

impl DoorConfig {
    /// What addresses of the door begin with, which listens at `address`.
    pub fn url(&self, address: SocketAddr) -> String {
        let known = self.public_url.as_ref().map(|url| url.trim_end_matches('/').to_owned());
        known.unwrap_or_else(|| format!("{}://{address}", self.scheme()))
    }

    /// The door as it is served. Its certificate is read.
    ///
    /// # Errors
    /// Where that cannot be.
    pub fn open(&self) -> Result<Doorway, TlsError> {
        let tls = self.tls.clone().map(DoorTls::new).transpose()?;
        Ok(Doorway { domains: self.domains.clone(), tls })
    }

    /// With what addresses of the door begin.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// The same as it is written in a file.
#[derive(Debug, Default)]
pub struct RawDoor {
    pub domains: Option<Spanned<Vec<String>>>,
    pub tls_cert: Option<Spanned<PathBuf>>,
    pub tls_key: Option<Spanned<PathBuf>>,
    pub public_url: Option<String>,
}

/// All that is wrong with a configuration, a line each.
#[derive(Debug)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for ConfigError {}

/// The mistakes of a file, each with its line.
pub struct Mistakes<'a> {
    name: &'a str,
    text: &'a str,
    found: Vec<String>,
}

impl<'a> Mistakes<'a> {
    /// How long lifecycle rules take a day to be.
    pub fn lifecycle_day(&mut self, seconds: Option<&Spanned<u32>>) -> Duration {
        match seconds {
            Some(seconds) if *seconds.get_ref() == 0 => {
                self.at(seconds, "a day has a second at least");
                Duration::from_secs(1)
            }
            Some(seconds) => Duration::from_secs(u64::from(*seconds.get_ref())),
            None => Duration::from_secs(24 * 60 * 60),
        }
    }

    /// How the S3 door is called.
    pub fn door(&mut self, raw: &RawDoor) -> DoorConfig {
        let domains = raw.domains.as_ref().map(|wanted| {
            Domains::new(wanted.get_ref()).unwrap_or_else(|wrong| {
                self.at(wanted, &wrong);
                Domains::default()
            })
        });
        let tls = match (&raw.tls_cert, &raw.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.get_ref().clone(), key: key.get_ref().clone() })
            }
            (None, None) => None,
            (Some(alone), None) => {
                self.at(alone, "tls_cert needs tls_key");
                None
            }
            (None, Some(alone)) => {
                self.at(alone, "tls_key needs tls_cert");
                None
            }
        };
        DoorConfig { domains: domains.unwrap_or_default(), tls, public_url: raw.public_url.clone() }
    }

    pub fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text, found: Vec::new() }
    }

    fn line(&self, at: usize) -> usize {
        self.text[..at.min(self.text.len())].matches('\n').count() + 1
    }

    /// The only mistake of a file that is no TOML of the right shape.
    pub fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let line = error.span().map_or(1, |span| self.line(span.start));
        ConfigError(vec![format!("{}:{line}: {}", self.name, error.message())])
    }

    pub fn at<T>(&mut self, value: &Spanned<T>, text: &str) {
        let line = self.line(value.span().start);
        self.found.push(format!("{}:{line}: {text}", self.name));
    }

    /// A mistake of no single place.
    pub fn whole(&mut self, text: &str) {
        self.found.push(format!("{}: {text}", self.name));
    }

    /// A value as `parse` reads it; `default` where it is absent or wrong.
    pub fn parse<T>(
        &mut self,
        field: Option<&Spanned<String>>,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(value) = field else { return default };
        match parse(value.get_ref()) {
            Ok(value) => value,
            Err(error) => {
                self.at(value, &error);
                default
            }
        }
    }

    /// # Errors
    /// With all mistakes, if there is one.
    pub fn finish<T>(self, config: T) -> Result<T, ConfigError> {
        if self.found.is_empty() { Ok(config) } else { Err(ConfigError(self.found)) }
    }
}

/// An address that only this host reaches.
pub fn local_port(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Reads an address and port.
///
/// # Errors
/// What is wrong with it, as the others.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and port"))
}

/// Reads a duration, as `14d`.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))
}

/// A configuration's text, and what it is called in messages.
///
/// # Errors
/// Where it cannot be read.
pub fn read(path: &Path) -> Result<(String, String), ConfigError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(ConfigError(vec![format!("{name}: {error}")])),
    }
}

/// The file as it is written: every value with its place, checked in [`validate`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    data: Spanned<String>,
    s3: Option<Spanned<String>>,
    domains: Option<Spanned<Vec<String>>>,
    tls_cert: Option<Spanned<PathBuf>>,
    tls_key: Option<Spanned<PathBuf>>,
    public_url: Option<String>,
    metrics: Option<Spanned<String>>,
    sync: Option<Spanned<String>>,
    ec: Option<Spanned<String>>,
    gc_grace: Option<Spanned<String>>,
    scrub_period: Option<Spanned<String>>,
    /// In seconds.
    lifecycle_day: Option<Spanned<u32>>,
    #[serde(default)]
    pools: Vec<Spanned<String>>,
    access_key: Option<Spanned<String>>,
    secret_key_file: Option<Spanned<String>>,
    #[serde(default)]
    device: Vec<Spanned<RawDevice>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    dir: Spanned<String>,
    place: Option<Spanned<String>>,
}

/// Where devices sync that are told nothing but where S3 is: two ports on.
fn beside(s3: SocketAddr) -> SocketAddr {
    let port = if s3.port() == 0 { 0 } else { s3.port().saturating_add(2) };
    SocketAddr::new(s3.ip(), port)
}

fn local() -> Place {
    Place { zone: "local".to_owned(), rack: "local".to_owned(), node: "local".to_owned() }
}

impl Config {
    /// # Errors
    /// Where the arguments contradict each other.
    pub fn from_dev(dev: DevArgs) -> Result<Self, ConfigError> {
        let device =
            |n| DeviceConfig { dir: dev.data.join("devices").join(format!("dev-{n}")), place: local() };
        let domains = Domains::new(&dev.domains).map_err(|wrong| ConfigError(vec![wrong]))?;
        let files = dev.tls_cert.zip(dev.tls_key);
        let tls = files.map(|(certificate, key)| TlsFiles { certificate, key });
        let config = Self {
            door: DoorConfig { domains, tls, public_url: dev.public_url },
            devices: (0..dev.devices).map(device).collect(),
            s3: dev.s3,
            metrics: dev.metrics,
            sync: dev.sync.unwrap_or_else(|| beside(dev.s3)),
            profile: dev.ec,
            pools: dev.pools,
            gc_grace: dev.gc_grace,
            scrub_period: dev.scrub_period,
            lifecycle_day: Duration::from_secs(dev.lifecycle_day),
            keys: dev.access_key.zip(dev.secret_key),
            data: dev.data,
        };
        let mistakes = config.mistakes();
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError(mistakes)) }
    }

    /// # Errors
    /// Where the file cannot be read, or with all its mistakes.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let (name, text) = read(path)?;
        validate(&name, &text)
    }

    /// What is wrong beyond single values.
    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let have = self.devices.len();
        for profile in [self.profile].into_iter().chain(self.pools.iter().map(|(_, profile)| *profile)) {
            let need = profile.total();
            if have < need {
                mistakes.push(format!("the profile {profile} needs {need} devices, and there are {have}"));
            }
        }
        if self.s3 == self.metrics && self.s3.port() != 0 {
            mistakes.push(format!("S3 and metrics cannot both listen on {}", self.s3));
        }
        if self.gc_grace > GRACE_MAX {
            mistakes.push("the grace period is longer than a year".to_owned());
        }
        if self.scrub_period < Duration::from_secs(1) {
            mistakes.push("the scrub period is shorter than a second".to_owned());
        }
        if let Some((access, secret)) = &self.keys
            && (access.len() < 3
                || secret.len() < 8
                || access.chars().any(|c| c.is_whitespace() || c == '/' || c == ','))
        {
            mistakes.push(
                "an access key needs 3 characters, without spaces, slashes and commas, and a secret key 8"
                    .to_owned(),
            );
        }
        mistakes
    }
}

/// Turns a file's text into a configuration, or into all its mistakes.
fn validate(name: &str, text: &str) -> Result<Config, ConfigError> {
    let mut mistakes = Mistakes::new(name, text);
    let raw: RawFile = toml::from_str(text).map_err(|error| mistakes.syntax(&error))?;
    let s3 = mistakes.parse(raw.s3.as_ref(), local_port(9000), address);
    let door = mistakes.door(&RawDoor {
        domains: raw.domains,
        tls_cert: raw.tls_cert,
        tls_key: raw.tls_key,
        public_url: raw.public_url,
    });
    let metrics = mistakes.parse(raw.metrics.as_ref(), local_port(9001), address);
    let sync = mistakes.parse(raw.sync.as_ref(), beside(s3), address);
    let four_two = Profile::new(4, 2).expect("a profile");
    let profile = mistakes.parse(raw.ec.as_ref(), four_two, |text| {
        text.parse().map_err(|e: holdfast_core::profile::ProfileError| e.to_string())
    });
    let pools = raw.pools.iter();
    let pools = pools.filter_map(|pool| mistakes.parse(Some(pool), None, |text| class_pool(text).map(Some)));
    let pools = pools.collect();
    let gc_grace = mistakes.parse(raw.gc_grace.as_ref(), Duration::from_secs(3600), duration);
    let scrub_period = mistakes.parse(raw.scrub_period.as_ref(), SCRUB_PERIOD, duration);
    let lifecycle_day = mistakes.lifecycle_day(raw.lifecycle_day.as_ref());
    let secret = |path: &str| {
        std::fs::read_to_string(path).map(|s| Some(s.trim().to_owned())).map_err(|e| format!("{path}: {e}"))
    };
    let secret_key = mistakes.parse(raw.secret_key_file.as_ref(), None, secret);
    let access_key = raw.access_key.as_ref().map(|key| key.get_ref().clone());
    match (&raw.access_key, &raw.secret_key_file) {
        (Some(key), None) => mistakes.at(key, "access_key needs secret_key_file"),
        (None, Some(file)) => mistakes.at(file, "secret_key_file needs access_key"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let mut devices: Vec<DeviceConfig> = Vec::new();
    for device in &raw.device {
        let dir = PathBuf::from(device.get_ref().dir.get_ref());
        let place = device.get_ref().place.as_ref();
        let place = mistakes.parse(place, local(), |text| {
            text.parse().map_err(|e: holdfast_core::topology::PlaceError| e.to_string())
        });
        if devices.iter().any(|other| other.dir == dir) {
            mistakes.at(&device.get_ref().dir, &format!("device {} is there twice", dir.display()));
        }
        devices.push(DeviceConfig { dir, place });
    }
    let data = PathBuf::from(raw.data.get_ref());
    let config = Config {
        data,
        s3,
        door,
        metrics,
        sync,
        devices,
        profile,
        pools,
        gc_grace,
        scrub_period,
        lifecycle_day,
        keys: access_key.zip(secret_key),
    };
    config.mistakes().iter().for_each(|mistake| mistakes.whole(mistake));
    mistakes.finish(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_file_gets_the_defaults() {
        let devices: String = (0..6).map(|n| format!("[[device]]\ndir = \"/d/{n}\"\n")).collect();
        let config =
            validate("f", &format!("data = \"/var/lib/holdfast\"\n{devices}")).expect("a valid file");
        assert_eq!((config.devices.len(), config.profile.to_string()), (6, "4+2".to_owned()));
        assert_eq!(config.s3.to_string(), "127.0.0.1:9000");
        assert_eq!(config.sync.to_string(), "127.0.0.1:9002");
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let text = "data = \"d\"\ns3 = \"nowhere\"\nec = \"4\"\ngc_grace = \"soon\"\naccess_key = \"key\"\n\
                    [[device]]\ndir = \"a\"\nplace = \"x\"\n[[device]]\ndir = \"a\"\n";
        let error = validate("f.toml", text).expect_err("mistakes").to_string();
        for expected in [
            "f.toml:2: \"nowhere\"",
            "f.toml:3: an erasure profile",
            "f.toml:4: \"soon\"",
            "f.toml:5: access_key needs",
            "f.toml:8: a place",
            "f.toml:10: device a is there twice",
            "needs 6 devices, and there are 2",
        ] {
            assert!(error.contains(expected), "{expected:?} is missing in {error}");
        }
    }

    #[test]
    fn unknown_settings_are_refused_with_their_line() {
        let error = validate("f.toml", "data = \"d\"\nport = 1\n").expect_err("a mistake").to_string();
        assert!(error.contains("f.toml:2") && error.contains("port"), "{error}");
    }
}
