use super::*;
use crate::pattern::like;
use proptest::prelude::*;

struct Asked<'a> {
    caller: Caller<'a>,
    action: &'a str,
    resource: &'a str,
    values: Vec<(&'a str, &'a str)>,
    address: Option<IpAddr>,
}

impl Request for Asked<'_> {
    fn caller(&self) -> Caller<'_> {
        self.caller
    }

    fn action(&self) -> &str {
        self.action
    }

    fn resource(&self) -> &str {
        self.resource
    }

    fn values(&self, key: &str, visit: &mut dyn FnMut(&str)) {
        self.values.iter().filter(|(name, _)| *name == key).for_each(|(_, value)| visit(value));
    }

    fn source_ip(&self) -> Option<IpAddr> {
        self.address
    }
}

const ALICE: Caller<'_> = Caller::User {
    account: "123456789012",
    arn: "arn:aws:iam::123456789012:root",
    canonical: "alice",
    role: None,
};

fn get<'a>() -> Asked<'a> {
    Asked {
        caller: ALICE,
        action: "s3:GetObject",
        resource: "arn:aws:s3:::b/k/1",
        values: Vec::new(),
        address: "10.1.2.3".parse().ok(),
    }
}

fn statement(effect: &str, principal: &str, action: &str, resource: &str, condition: &str) -> String {
    format!(
        r#"{{"Effect":"{effect}","Principal":{principal},"Action":{action},"Resource":{resource},"Condition":{condition}}}"#
    )
}

fn policy(statements: &[String]) -> Policy {
    let text = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
    Policy::of_resource(&text, "arn:aws:s3:::b").unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn with(condition: &str) -> Policy {
    policy(&[statement("Allow", r#""*""#, r#""s3:*""#, r#""arn:aws:s3:::b/*""#, condition)])
}

#[test]
fn denial_is_final_wherever_it_stands() {
    let allow = statement("Allow", r#""*""#, r#""s3:Get*""#, r#""arn:aws:s3:::b/*""#, "{}");
    let deny =
        statement("Deny", r#"{"AWS":"123456789012"}"#, r#""s3:GetObject""#, r#""arn:aws:s3:::b/k/*""#, "{}");
    assert_eq!(policy(std::slice::from_ref(&allow)).effect(&get()), Some(Effect::Allow));
    assert_eq!(policy(&[allow.clone(), deny.clone()]).effect(&get()), Some(Effect::Deny));
    assert_eq!(policy(&[deny.clone(), allow]).effect(&get()), Some(Effect::Deny));
    let other = Asked { resource: "arn:aws:s3:::b/other", ..get() };
    assert_eq!(policy(&[deny]).effect(&other), None);
}

#[test]
fn principals_are_accounts_users_and_everybody() {
    let for_principal = |principal: &str| {
        let allow = statement("Allow", principal, r#"["s3:GetObject"]"#, r#"["arn:aws:s3:::b/*"]"#, "{}");
        policy(&[allow])
    };
    for principal in [
        r#""*""#,
        r#"{"AWS":"*"}"#,
        r#"{"AWS":["999999999999","123456789012"]}"#,
        r#"{"AWS":"arn:aws:iam::123456789012:root"}"#,
        r#"{"AWS":"arn:aws:iam:::user/alice"}"#,
        r#"{"AWS":"arn:aws:iam::123456789012:user/alice"}"#,
        r#"{"CanonicalUser":"alice"}"#,
    ] {
        assert_eq!(for_principal(principal).effect(&get()), Some(Effect::Allow), "{principal}");
    }
    for principal in [
        r#"{"AWS":"999999999999"}"#,
        r#"{"AWS":"arn:aws:iam::999999999999:user/alice"}"#,
        r#"{"CanonicalUser":"bob"}"#,
        r#"{"Service":"s3.amazonaws.com"}"#,
    ] {
        assert_eq!(for_principal(principal).effect(&get()), None, "{principal}");
    }
    let anonymous = Asked { caller: Caller::Anonymous, ..get() };
    assert_eq!(for_principal(r#""*""#).effect(&anonymous), Some(Effect::Allow));
    assert_eq!(for_principal(r#"{"AWS":"123456789012"}"#).effect(&anonymous), None);
}

#[test]
fn what_is_negated_is_all_the_rest() {
    let text = r#"{"Statement":{"Effect":"Deny","NotPrincipal":{"AWS":"123456789012"},"NotAction":"s3:ListBucket","NotResource":"arn:aws:s3:::b/free/*"}}"#;
    let policy = Policy::of_resource(text, "arn:aws:s3:::b").expect("a policy");
    assert_eq!(policy.effect(&get()), None, "alice is the exception");
    let anonymous = || Asked { caller: Caller::Anonymous, ..get() };
    assert_eq!(policy.effect(&anonymous()), Some(Effect::Deny));
    assert_eq!(policy.effect(&Asked { action: "s3:ListBucket", ..anonymous() }), None);
    assert_eq!(policy.effect(&Asked { resource: "arn:aws:s3:::b/free/1", ..anonymous() }), None);
}

#[test]
fn conditions_are_held_against_what_the_request_has() {
    let asked = || Asked {
        values: vec![
            ("s3:prefix", "home/alice"),
            ("aws:username", "alice"),
            ("s3:max-keys", "10"),
            ("aws:securetransport", "false"),
            ("aws:currenttime", "2026-06-01T12:00:00Z"),
            ("s3:requestobjecttagkeys", "a"),
            ("s3:requestobjecttagkeys", "b"),
        ],
        ..get()
    };
    for (condition, holds) in [
        (r#"{"StringEquals":{"s3:prefix":["x","home/alice"]}}"#, true),
        (r#"{"StringEquals":{"s3:prefix":"home/*"}}"#, false),
        (r#"{"StringLike":{"S3:Prefix":"home/*"}}"#, true),
        (r#"{"StringLike":{"s3:prefix":"home/${aws:username}"}}"#, true),
        (r#"{"StringEquals":{"s3:prefix":"home/${aws:userid}"}}"#, false),
        (r#"{"StringEquals":{"s3:prefix":"home/${aws:userid, 'alice'}"}}"#, true),
        (r#"{"StringEquals":{"s3:prefix":"home/${aws:userid, '*'}"}}"#, false),
        (r#"{"StringLike":{"s3:prefix":"home/${aws:username, 'bob'}"}}"#, true),
        (r#"{"StringNotEquals":{"s3:prefix":["x","home/alice"]}}"#, false),
        (r#"{"StringNotEquals":{"s3:absent":"x"}}"#, true),
        (r#"{"StringEquals":{"s3:absent":"x"}}"#, false),
        (r#"{"StringEqualsIfExists":{"s3:absent":"x"}}"#, true),
        (r#"{"StringEqualsIgnoreCase":{"aws:username":"ALICE"}}"#, true),
        (r#"{"Null":{"s3:absent":"true"}}"#, true),
        (r#"{"Null":{"s3:prefix":true}}"#, false),
        (r#"{"Null":{"s3:prefix":"false"}}"#, true),
        (r#"{"NumericLessThanEquals":{"s3:max-keys":10}}"#, true),
        (r#"{"NumericLessThan":{"s3:max-keys":"10"}}"#, false),
        (r#"{"Bool":{"aws:SecureTransport":"false"}}"#, true),
        (r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-01-01T00:00:00Z"}}"#, true),
        (r#"{"DateLessThan":{"aws:CurrentTime":"2026-01-01"}}"#, false),
        (r#"{"IpAddress":{"aws:SourceIp":["192.168.0.0/16","10.0.0.0/8"]}}"#, true),
        (r#"{"NotIpAddress":{"aws:SourceIp":"10.1.2.3"}}"#, false),
        (r#"{"IpAddress":{"aws:SourceIp":"10.1.2.4/31"}}"#, false),
        (r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b","c"]}}"#, true),
        (r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a"]}}"#, false),
        (r#"{"ForAllValues:StringEquals":{"s3:absent":["a"]}}"#, true),
        (r#"{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":["z","b"]}}"#, true),
        (r#"{"ForAnyValue:StringEquals":{"s3:absent":["a"]}}"#, false),
        (r#"{"StringEquals":{"aws:username":"alice"},"NumericEquals":{"s3:max-keys":"11"}}"#, false),
    ] {
        assert_eq!(with(condition).effect(&asked()).is_some(), holds, "{condition}");
    }
}

#[test]
fn values_of_requests_are_no_wildcards() {
    let asked =
        |name| Asked { values: vec![("aws:username", name)], resource: "arn:aws:s3:::b/home/bob", ..get() };
    let allow = statement("Allow", r#""*""#, r#""s3:*""#, r#""arn:aws:s3:::b/home/${aws:username}""#, "{}");
    let policy = policy(&[allow]);
    assert_eq!(policy.effect(&asked("bob")), Some(Effect::Allow));
    assert_eq!(policy.effect(&asked("*")), None);
    assert_eq!(policy.effect(&asked("b?b")), None);
}

#[test]
fn what_is_malformed_is_refused() {
    let good = statement("Allow", r#""*""#, r#""s3:GetObject""#, r#""arn:aws:s3:::b/*""#, "{}");
    let refused = |statement: &str| {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statement}]}}"#);
        Policy::of_resource(&text, "arn:aws:s3:::b").is_err()
    };
    assert!(!refused(&good));
    for (from, to) in [
        ("Allow", "Permit"),
        (r#""*""#, r#""everyone""#),
        ("s3:GetObject", "GetObject"),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::other/*"),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::bb/*"),
        (r#""Principal":"*""#, r#""NotPrincipal":"*""#),
        ("\"Action\"", "\"Actoin\""),
        ("{}", r#"{"StringAlmostEquals":{"a:b":"c"}}"#),
        ("{}", r#"{"NumericEquals":{"s3:max-keys":"ten"}}"#),
        ("{}", r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/33"}}"#),
        ("{}", r#"{"StringEquals":{"nokey":"x"}}"#),
        ("{}", r#"{"StringEquals":{"s3:prefix":"${aws:username"}}"#),
        ("{}", r#"{"StringEquals":{"s3:prefix":"${aws:username, bob}"}}"#),
        ("arn:aws:s3:::b/*", "arn:aws:s3:::b/${aws:username"),
        (r#""Principal":"*","#, ""),
    ] {
        assert!(refused(&good.replacen(from, to, 1)), "{from} -> {to}");
    }
    assert!(refused(""));
    assert_eq!(Policy::of_resource("{", "arn:aws:s3:::b"), Err(PolicyError::NotJson));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Policy::of_resource(&deep, "arn:aws:s3:::b").is_err());
    let deep = format!("{}{}", "[".repeat(9_000), "]".repeat(9_000));
    assert!(Policy::of_resource(&deep, "arn:aws:s3:::b").is_err(), "depth is bounded");
}

#[test]
fn public_is_what_anybody_gets() {
    assert!(with("{}").is_public());
    assert!(with(r#"{"StringEquals":{"s3:prefix":"x"}}"#).is_public());
    assert!(!with(r#"{"IpAddress":{"aws:SourceIp":"10.0.0.0/8"}}"#).is_public());
    assert!(with(r#"{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#).is_public());
    assert!(!with(r#"{"StringEquals":{"aws:SourceVpc":"vpc-1"}}"#).is_public());
    assert!(with(r#"{"StringLike":{"aws:SourceVpc":"vpc-*"}}"#).is_public());
    assert!(with(r#"{"ForAllValues:StringEquals":{"aws:SourceVpc":"vpc-1"}}"#).is_public());
    assert!(with(r#"{"IpAddress":{"aws:SourceIp":"2000::/8"}}"#).is_public());
    let one = statement("Allow", r#"{"AWS":"123456789012"}"#, r#""s3:*""#, r#""arn:aws:s3:::b""#, "{}");
    assert!(!policy(&[one]).is_public());
}

/// Wildcards as they are defined, however slow.
fn slow_like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            slow_like(rest, text) || (!text.is_empty() && slow_like(pattern, &text[1..]))
        }
        (Some((b'?', rest)), Some((_, after))) => slow_like(rest, after),
        (Some((one, rest)), Some((other, after))) if one == other => slow_like(rest, after),
        _ => false,
    }
}

proptest! {
    #[test]
    fn wildcards_match_as_defined(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        let fast = like(pattern.as_bytes(), text.as_bytes(), u8::eq);
        prop_assert_eq!(fast, slow_like(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _refused = Policy::of_identity(&text);
    }

    /// Order never matters, one denial is enough, and without an allowance there is none.
    #[test]
    fn statements_combine_by_deny_then_allow(rules in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..8)) {
        let text = |&(deny, applies): &(bool, bool)| {
            let effect = if deny { "Deny" } else { "Allow" };
            let resource = if applies { r#""arn:aws:s3:::b/*""# } else { r#""arn:aws:s3:::b/other""# };
            statement(effect, r#""*""#, r#""s3:GetObject""#, resource, "{}")
        };
        prop_assume!(!rules.is_empty());
        let expected = match (rules.contains(&(true, true)), rules.contains(&(false, true))) {
            (true, _) => Some(Effect::Deny),
            (false, true) => Some(Effect::Allow),
            (false, false) => None,
        };
        let statements: Vec<String> = rules.iter().map(text).collect();
        prop_assert_eq!(policy(&statements).effect(&get()), expected);
    }
}

#[test]
fn it_is_known_whether_a_policy_tells_names_in_a_directory_apart() {
    let told = |resource: &str| {
        let text = format!(
            r#"{{"Statement":[{{"Effect":"Deny","Principal":"*","Action":"s3:Get*","Resource":"arn:aws:s3:::b/{resource}"}}]}}"#
        );
        let policy = Policy::of_resource(&text, "arn:aws:s3:::b").expect("a policy");
        policy.tells_apart(&get(), &["s3:GetObject"], "arn:aws:s3:::b/team/")
    };
    for all_or_none in ["*", "team/*", "tea*", "teams/*", "other", "team", "x/team/*"] {
        assert!(!told(all_or_none), "{all_or_none}");
    }
    for some in
        ["team/secret/*", "team/x", "*.txt", "team/*.txt", "t*m/*", "team/?", "${aws:username}/*", "te?m/*"]
    {
        assert!(told(some), "{some}");
    }
}
