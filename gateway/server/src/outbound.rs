//! Requests of the gateway's own, to services that operators and owners of buckets name.

use reqwest::{
    Client, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

fn builder(patience: Duration) -> ClientBuilder {
    Client::builder().redirect(Policy::none()).no_proxy().timeout(patience).user_agent("holdfast")
}

/// A client that follows no redirects, takes nobody's proxy, and waits so long for a whole answer.
///
/// # Errors
/// Where the host's certificates cannot be read.
pub fn client(patience: Duration) -> Result<Client, reqwest::Error> {
    builder(patience).build()
}

/// The same, which reaches public addresses alone: what names lead to is chosen by strangers.
///
/// # Errors
/// See [`client`].
pub fn public_client(patience: Duration) -> Result<Client, reqwest::Error> {
    builder(patience).https_only(true).dns_resolver(Arc::new(Public)).build()
}

/// Whether a URL is one for [`public_client`]: its resolver is not asked about addresses.
pub fn may_be_public(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    // A name is looked up, and judged by where it leads.
    url.scheme() == "https" && !host.is_empty() && address.map_or(true, is_public)
}

/// Whether an address is neither this host's nor its network's.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || a == 0
                || a >= 240
                || shared)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let local = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80;
            // Through these an address of version 4 may be meant.
            let translated = first == 0x2002 || first == 0x0064;
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || local || translated)
        }
    }
}

struct Public;

impl Resolve for Public {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
            match public.is_empty() {
                true => Err(io::Error::other("the name leads to no public address").into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbourhood_is_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_public(address.parse().expect("an address")), "{address}");
        }
        assert!(
            is_public(IpAddr::from([192, 0, 66, 1]))
                && is_public("2606:4700::1".parse().expect("an address"))
        );
        assert!(may_be_public("https://example.org/x") && may_be_public("https://192.0.66.1/"));
        for url in
            ["http://example.org/", "https://127.0.0.1/", "https://[::1]/", "https://0x7f000001/", "nonsense"]
        {
            assert!(!may_be_public(url), "{url}");
        }
    }
}
