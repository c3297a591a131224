use super::*;
use proptest::prelude::*;

const ACCOUNT: &str = "123456789012";

fn params(fields: &[(&str, &str)]) -> Params {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn call<'a>(action: &'a str, params: &'a Params, me: Option<&'a str>) -> Call<'a> {
    Call { action, params, account: ACCOUNT, me, holder: me, now_ms: 1_000 }
}

fn done(records: &mut Records, action: &str, fields: &[(&str, &str)]) -> Outcome {
    let params = params(fields);
    run(&call(action, &params, None), records)
}

fn account() -> Records {
    let mut records = Records::new();
    for (action, fields) in [
        ("CreateUser", vec![("UserName", "Boss"), ("Path", "/board/")]),
        ("CreateUser", vec![("UserName", "me")]),
        ("CreateGroup", vec![("GroupName", "admins")]),
        (
            "CreateRole",
            vec![
                ("RoleName", "dev"),
                (
                    "AssumeRolePolicyDocument",
                    r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}}"#,
                ),
            ],
        ),
    ] {
        done(&mut records, action, &fields).expect("it is made");
    }
    records
}

/// What an action is judged by is what it is carried out on, whatever else the form says.
#[test]
fn other_fields_do_not_decide_what_an_action_is_about() {
    let records = account();
    let boss = format!("arn:aws:iam::{ACCOUNT}:user/board/Boss");
    let decoys = [
        ("PolicyArn", "arn:aws:iam::123456789012:user/me"),
        ("RoleName", "dev"),
        ("GroupName", "admins"),
        ("PolicyName", "p"),
        ("OpenIDConnectProviderArn", "arn:aws:iam::123456789012:user/me"),
    ];
    for action in [
        "CreateAccessKey",
        "DeleteAccessKey",
        "UpdateAccessKey",
        "AttachUserPolicy",
        "PutUserPolicy",
        "DeleteUser",
        "TagUser",
    ] {
        // However the name is written, it is the same user.
        for name in ["Boss", "BOSS", "boss"] {
            let params = params(&[&decoys[..], &[("UserName", name)]].concat());
            assert_eq!(resources(&call(action, &params, Some("me")), &records), [boss.as_str()], "{action}");
        }
    }
    let group = format!("arn:aws:iam::{ACCOUNT}:group/admins");
    let adds = params(&[("GroupName", "admins"), ("UserName", "me"), ("RoleName", "dev")]);
    assert_eq!(resources(&call("AddUserToGroup", &adds, Some("me")), &records), [group]);
    for action in
        ["ListUsers", "ListRoles", "CreateOpenIDConnectProvider", "CreatePolicy", "GetAccountSummary"]
    {
        let found = resources(&call(action, &Params::new(), Some("me")), &records);
        assert!(!found[0].contains("user/"), "{action}: {found:?}");
    }
    let renames = params(&[("UserName", "me"), ("NewPath", "/board/"), ("NewUserName", "chief")]);
    let both = resources(&call("UpdateUser", &renames, None), &records);
    assert_eq!(both, ["user/me", "user/board/chief"].map(|name| format!("arn:aws:iam::{ACCOUNT}:{name}")));
}

/// What conditions ask of boundaries and policies is what the action reads, too.
#[test]
fn a_boundary_that_is_only_said_does_not_count() {
    let mut records = account();
    let boundary = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess";
    done(
        &mut records,
        "PutUserPermissionsBoundary",
        &[("UserName", "me"), ("PermissionsBoundary", boundary)],
    )
    .expect("it is set");
    for (action, user, expected) in [
        ("PutUserPolicy", "Boss", None),
        ("DeleteUserPermissionsBoundary", "me", Some(boundary)),
        ("PutUserPolicy", "me", Some(boundary)),
        ("CreateUser", "new", Some("stray")),
    ] {
        let fields = [("UserName", user), ("PermissionsBoundary", "stray"), ("PolicyArn", "stray")];
        let params = params(&fields);
        let (policy, found) = about(&call(action, &params, None), &records);
        assert_eq!((policy, found.as_deref()), (None, expected), "{action}");
    }
    let params = params(&[("UserName", "me"), ("PolicyArn", boundary)]);
    assert_eq!(about(&call("AttachUserPolicy", &params, None), &records).0, Some(boundary));
}

#[test]
fn an_account_does_not_fill_what_all_share() {
    let mut records = account();
    let document = format!(
        r#"{{"Statement":{{"Effect":"Allow","Action":"s3:*","Resource":"{}"}}}}"#,
        "x".repeat(10_000)
    );
    let full = (0..200).find(|number| {
        let fields = [("PolicyName", format!("p{number}")), ("PolicyDocument", document.clone())];
        let params: Params = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let call = call("CreatePolicy", &params, None);
        run(&call, &mut records).expect("it is made");
        check_room(&call, &records).is_err()
    });
    assert!(full.is_some_and(|number| number > 50));
}

proptest! {
    /// Nothing that strangers send is a reason to end, and what is refused changes nothing that is read again.
    #[test]
    fn any_form_is_answered(
        action in "(Create|Get|List|Delete|Put|Attach|Detach|Update|Tag|AddUserTo)(User|Group|Role|Access|Policy|AssumeRole|OpenIDConnect)(Key|Policy|Provider|s|Policies|)?",
        fields in prop::collection::btree_map(
            "(UserName|GroupName|RoleName|PolicyName|PolicyArn|PolicyDocument|Path|NewPath|NewUserName|AccessKeyId|Url|VersionId|Status)",
            "[ -~]{0,40}|Boss|me|admins|dev|/a/|\\{\"Statement\":\\[\\]\\}",
            0..6,
        ),
    ) {
        let mut records = account();
        let call = Call { action: &action, params: &fields, account: ACCOUNT, me: Some("me"), holder: Some("x"), now_ms: 5 };
        prop_assert!(!resources(&call, &records).is_empty());
        let _answered = run(&call, &mut records);
        // Whatever was done, all of it can be read.
        for (key, text) in &records {
            let read = serde_json::from_str::<serde_json::Value>(text);
            prop_assert!(read.is_ok(), "{key}");
        }
    }
}
