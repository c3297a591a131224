//! Requests of the gateway's own, to services that operators and owners of buckets name.

use std::time::Duration;

/// A client that follows no redirects, takes nobody's proxy, and waits so long for a whole answer.
///
/// # Errors
/// Where the host's certificates cannot be read.
pub fn client(patience: Duration) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(patience)
        .user_agent("holdfast")
        .build()
}
