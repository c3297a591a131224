//! Tokens of OpenID Connect providers, checked against the keys that the providers publish (OpenID Connect Core 1.0, section 3.1.3.7).

use crate::identity::iam::Provider;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use lru::LruCache;
use serde::Deserialize;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a provider's keys are remembered.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// How long they are at least, though a token names one that is not among them: strangers must not have them read all the time.
const REMEMBERED_AT_LEAST: Duration = Duration::from_secs(10);

/// How long a provider may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is taken from a provider.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Providers whose keys are remembered.
const PROVIDERS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");

/// The algorithms that are believed. Those with shared secrets are none of them.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
];

/// What a token says of its bearer.
#[derive(Debug, Clone, Deserialize)]
pub struct Claims {
    pub sub: String,
    #[serde(deserialize_with = "one_or_more")]
    pub aud: Vec<String>,
    #[serde(default)]
    pub azp: Option<String>,
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default)]
    pub amr: Vec<String>,
}

fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

/// Why a token is not believed, in words.
pub struct Disbelieved(pub String);

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The issuer that a token names, which is not believed yet.
pub fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issued {
        iss: String,
    }
    jsonwebtoken::dangerous::insecure_decode::<Issued>(token).ok().map(|data| data.claims.iss)
}

/// Providers' keys, as they were read last.
pub struct Providers {
    /// By URL, and whether it was trusted.
    known: Mutex<LruCache<(String, bool), Known>>,
}

/// When a provider was asked, and its keys or why there are none.
type Known = (Instant, Result<Arc<JwkSet>, String>);

impl Default for Providers {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(PROVIDERS_MAX)) }
    }
}

impl Providers {
    /// What a token of `provider` says. One that is not `trusted` is asked at public addresses only, and encrypted.
    ///
    /// # Errors
    /// Where it is not to be believed, or the provider does not answer.
    pub async fn check(
        &self,
        provider: &Provider,
        token: &str,
        trusted: bool,
    ) -> Result<Claims, Disbelieved> {
        let wrong = |what: &dyn std::fmt::Display| Disbelieved(format!("the token: {what}"));
        let header = decode_header(token).map_err(|error| wrong(&error))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(wrong(&"its algorithm is none of those that are believed"));
        }
        let keys = self.keys(provider, header.kid.as_deref(), trusted).await?;
        let key = match &header.kid {
            Some(kid) => keys.find(kid),
            None => keys.keys.first().filter(|_| keys.keys.len() == 1),
        };
        let key = key.ok_or_else(|| wrong(&"its key is none of the provider's"))?;
        let key = DecodingKey::from_jwk(key).map_err(|error| wrong(&error))?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&provider.url]);
        let audiences: Vec<&String> = provider.client_ids.iter().collect();
        validation.set_audience(&audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        decode(token, &key, &validation).map(|data| data.claims).map_err(|error| wrong(&error))
    }

    async fn keys(
        &self,
        provider: &Provider,
        kid: Option<&str>,
        trusted: bool,
    ) -> Result<Arc<JwkSet>, Disbelieved> {
        let name = (provider.url.clone(), trusted);
        if let Some((at, known)) = self.lock().get(&name) {
            let has = known.as_ref().is_ok_and(|keys| kid.is_none_or(|kid| keys.find(kid).is_some()));
            if at.elapsed() < REMEMBERED_AT_LEAST || (has && at.elapsed() < REMEMBERED) {
                return known.clone().map_err(Disbelieved);
            }
        }
        let read = self.read(provider, trusted).await.map(Arc::new);
        let known = read.as_ref().map(Arc::clone).map_err(|wrong| wrong.0.clone());
        self.lock().put(name, (Instant::now(), known));
        read
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<(String, bool), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, provider: &Provider, trusted: bool) -> Result<JwkSet, Disbelieved> {
        let discovery: Discovery =
            fetch(&format!("{}/.well-known/openid-configuration", provider.url), trusted).await?;
        if discovery.issuer.trim_end_matches('/') != provider.url {
            return Err(Disbelieved("the provider calls itself otherwise".to_owned()));
        }
        fetch(&discovery.jwks_uri, trusted).await
    }
}

async fn fetch<T: serde::de::DeserializeOwned>(url: &str, trusted: bool) -> Result<T, Disbelieved> {
    // What an address answers that an account's owner chose is told to operators only.
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(url, %error, "an identity provider cannot be asked");
        Disbelieved("the identity provider's keys cannot be read".to_owned())
    };
    let client = match trusted {
        true => crate::outbound::client(PATIENCE),
        false if crate::outbound::may_be_public(url) => crate::outbound::public_client(PATIENCE),
        false => return Err(failed(&"it is no public https address")),
    };
    let client = client.map_err(|error| failed(&error))?;
    let mut answer = client.get(url).send().await.map_err(|error| failed(&error))?;
    if !answer.status().is_success() {
        return Err(failed(&answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| failed(&error))? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(failed(&"its answer is too long"));
        }
    }
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}
