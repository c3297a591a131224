//! Which bucket a request's host names: virtual-hosted style, websites, and domains that are buckets' own.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};
use std::{future::Future, sync::Arc};

/// What a host is beyond the address of the whole service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// The service: the path names the bucket.
    Nothing,
    /// A bucket, for programs.
    Bucket(&'a str),
    /// A bucket's website, for browsers.
    Website(&'a str),
    /// A domain of somebody's own, which may be a bucket's name.
    Foreign(&'a str),
}

/// The domains under which buckets are hosts.
#[derive(Debug, Clone, Default)]
pub struct Domains(Arc<[String]>);

tokio::task_local! {
    /// The bucket whose own domain the request of this task came to, as was found before it is read.
    static FOREIGN: Option<String>;
}

/// Carries a request out whose host is `bucket`'s own domain, where it is one.
pub async fn with_foreign<F: Future>(bucket: Option<String>, carried: F) -> F::Output {
    FOREIGN.scope(bucket, carried).await
}

/// A host's name as it is compared: in lower case, without its port and the dot that may end it.
pub fn host_name(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Domains {
    /// # Errors
    /// Which of them is no domain.
    pub fn new(domains: &[String]) -> Result<Self, String> {
        let good = |domain: &String| {
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
            !domain.is_empty() && !domain.starts_with('.') && domain.bytes().all(plain)
        };
        match domains.iter().find(|domain| !good(domain)) {
            Some(bad) => Err(format!("{bad:?} is no domain, in lower case and without a port")),
            None => {
                // The longest first: one may lie in another.
                let mut domains = domains.to_vec();
                domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
                Ok(Self(domains.into()))
            }
        }
    }

    /// What a host names, as [`host_name`] gives it.
    pub fn named<'a>(&self, name: &'a str) -> Named<'a> {
        if name.is_empty() || name.starts_with('[') || name.parse::<std::net::IpAddr>().is_ok() {
            return Named::Nothing;
        }
        for domain in self.0.iter() {
            let Some(rest) = name.strip_suffix(domain.as_str()) else { continue };
            if rest.is_empty() {
                return Named::Nothing;
            }
            let Some(bucket) = rest.strip_suffix('.') else { continue };
            // BUCKET.s3-website.DOMAIN, or with a region behind a dash or a dot as AWS has them.
            let website = bucket.find(".s3-website").filter(|at| {
                let rest = &bucket[at + ".s3-website".len()..];
                rest.is_empty() || (rest.starts_with(['.', '-']) && !rest[1..].contains('.'))
            });
            return match website {
                Some(at) => Named::Website(&bucket[..at]),
                None => Named::Bucket(bucket),
            };
        }
        // Without domains of its own the service has no other names to be told from.
        if self.0.is_empty() || !name.contains('.') { Named::Nothing } else { Named::Foreign(name) }
    }
}

/// Domains as s3s asks for them.
pub struct Hosts(pub Domains);

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host_name(host);
        let foreign =
            |name: &str| FOREIGN.try_with(|bucket| bucket.as_deref() == Some(name)).unwrap_or(false);
        Ok(match self.0.named(&name) {
            Named::Bucket(bucket) => VirtualHost::new(host).with_bucket(bucket.to_owned()),
            Named::Foreign(name) if foreign(name) => VirtualHost::new(host).with_bucket(name.to_owned()),
            Named::Nothing | Named::Website(_) | Named::Foreign(_) => VirtualHost::new(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_buckets_under_the_domains_alone() {
        let domains = Domains::new(&["s3.example.com", "localhost", "eu.s3.example.com"].map(str::to_owned))
            .expect("domains");
        for (host, expected) in [
            ("s3.example.com", Named::Nothing),
            ("s3.example.com:9000", Named::Nothing),
            ("b.s3.example.com:9000", Named::Bucket("b")),
            ("a.b.s3.example.com", Named::Bucket("a.b")),
            ("b.localhost:80", Named::Bucket("b")),
            ("b.s3-website.localhost", Named::Website("b")),
            ("b.c.s3-website-us-east-1.s3.example.com", Named::Website("b.c")),
            ("b.s3-website.us-east-1.s3.example.com", Named::Website("b")),
            ("xs3.example.com", Named::Foreign("xs3.example.com")),
            ("www.example.org:9000", Named::Foreign("www.example.org")),
            ("storage", Named::Nothing),
            ("127.0.0.1:9000", Named::Nothing),
            ("[::1]:9000", Named::Nothing),
            ("", Named::Nothing),
            ("B.S3.Example.COM.:9000", Named::Bucket("b")),
            ("b.eu.s3.example.com", Named::Bucket("b")),
        ] {
            assert_eq!(domains.named(&host_name(host)), expected, "{host}");
        }
        assert_eq!(Domains::default().named("b.s3.example.com"), Named::Nothing);
        assert!(Domains::new(&["Example.com".to_owned()]).is_err());
    }
}
