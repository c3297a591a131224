//! Roles for whoever an identity provider vouches for.

mod common;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use common::{Client, SECRET_KEY, Server};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    time::{SystemTime, UNIX_EPOCH},
};

/// A provider with one key, on a port of its own.
struct Provider {
    address: SocketAddr,
    key: rcgen::KeyPair,
}

impl Provider {
    fn start() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let point = key.public_key_raw();
        let part = |range: std::ops::Range<usize>| BASE64_URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
            "x": part(1..33), "y": part(33..65)});
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                reader.read_line(&mut line).expect("a request");
                let body = match line.contains("openid-configuration") {
                    true => {
                        json!({"issuer": format!("http://{address}"), "jwks_uri": format!("http://{address}/keys")})
                    }
                    false => json!({"keys": [jwk.clone()]}),
                };
                let body = body.to_string();
                let length = body.len();
                write!(
                    &stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                )
                .expect("an answer");
            }
        });
        Self { address, key }
    }

    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let mut claims = json!({"iss": format!("http://{}", self.address), "sub": "repo:main", "aud": "builds",
            "exp": now + 300, "iat": now});
        change(&mut claims);
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).expect("a token")
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Posts a form that nobody signed.
fn post(server: &Server, body: &str) -> (u16, String) {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        server.s3,
        body.len()
    );
    let answer =
        common::client::exchange(&server.s3, head.as_bytes(), body.as_bytes(), false).expect("an answer");
    (answer.status, answer.text())
}

fn between<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split_once(&format!("<{name}>")).expect("the element is there").1;
    rest.split_once('<').expect("it ends").0
}

#[test]
fn a_role_is_assumed_with_a_token_that_its_provider_signed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let client = server.client();
    client.create_bucket("builds");
    client.put("/builds/k", b"artifact");
    let provider = Provider::start();
    let name = provider.address.to_string();
    let iam = |fields: &[(&str, &str)]| {
        let answer = client.query("iam", &form(fields));
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let url = format!("http://{name}");
    iam(&[("Action", "CreateOpenIDConnectProvider"), ("Url", &url), ("ClientIDList.member.1", "builds")]);
    let trust = json!({"Statement": [{"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity",
        "Principal": {"Federated": format!("arn:aws:iam::000000000000:oidc-provider/{name}")},
        "Condition": {"StringLike": {format!("{name}:sub"): "repo:*"}, "StringEquals": {format!("{name}:aud"): "builds"}}}]});
    iam(&[
        ("Action", "CreateRole"),
        ("RoleName", "builder"),
        ("AssumeRolePolicyDocument", &trust.to_string()),
    ]);
    let policy = json!({"Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::builds/*"}]});
    iam(&[
        ("Action", "PutRolePolicy"),
        ("RoleName", "builder"),
        ("PolicyName", "p"),
        ("PolicyDocument", &policy.to_string()),
    ]);
    let assume = |token: &str| {
        post(
            &server,
            &form(&[
                ("Action", "AssumeRoleWithWebIdentity"),
                ("RoleArn", "arn:aws:iam::000000000000:role/builder"),
                ("RoleSessionName", "run-1"),
                ("WebIdentityToken", token),
            ]),
        )
    };
    let (status, text) = assume(&provider.token(|_| {}));
    assert_eq!(status, 200, "{text}");
    assert_eq!(between(&text, "SubjectFromWebIdentityToken"), "repo:main");
    let builder =
        Client::with_keys(&server.s3, between(&text, "AccessKeyId"), between(&text, "SecretAccessKey"));
    let token = between(&text, "SessionToken");
    let get = |path: &str| builder.with_headers("GET", path, &[("x-amz-security-token", token)], b"");
    assert_eq!((get("/builds/k").status, get("/builds/k").body), (200, b"artifact".to_vec()));
    assert_eq!(get("/").status, 403);

    // Tokens that say what is not so, in each way.
    let second = Provider::start();
    let other_key = {
        let header = Header { kid: Some("k1".to_owned()), ..Header::new(Algorithm::ES256) };
        let claims = json!({"iss": url, "sub": "repo:main", "aud": "builds", "exp": 4_000_000_000u64});
        encode(&header, &claims, &EncodingKey::from_ec_der(&second.key.serialize_der())).expect("a token")
    };
    let shared_secret = {
        let claims = json!({"iss": url, "sub": "repo:main", "aud": "builds", "exp": 4_000_000_000u64});
        encode(&Header::default(), &claims, &EncodingKey::from_secret(b"builds")).expect("a token")
    };
    let unsigned = {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": url, "sub": "repo:main", "aud": "builds", "exp": 4_000_000_000u64});
        format!("{}.{}.", part(json!({"alg": "none"})), part(claims))
    };
    for (what, bad) in [
        ("another key", other_key),
        ("a shared secret", shared_secret),
        ("no signature", unsigned),
        ("another issuer", second.token(|_| {})),
        ("it is over", provider.token(|claims| claims["exp"] = 1_000_000_000u64.into())),
        ("it never ends", provider.token(|claims| drop(claims.as_object_mut().map(|map| map.remove("exp"))))),
        ("not yet", provider.token(|claims| claims["nbf"] = 4_000_000_000u64.into())),
        ("made for others", provider.token(|claims| claims["aud"] = "others".into())),
        ("nonsense", "a.b.c".to_owned()),
    ] {
        let (status, text) = assume(&bad);
        assert_eq!((status, between(&text, "Code")), (400, "InvalidIdentityToken"), "{what}");
    }
    let (status, text) = assume(&provider.token(|claims| claims["sub"] = "user:eve".into()));
    assert_eq!((status, between(&text, "Code")), (403, "AccessDenied"));
    for secret in [SECRET_KEY, token, between(&assume(&provider.token(|_| {})).1, "SecretAccessKey")] {
        assert!(!server.log().contains(secret));
    }
}
