//! The sync door against clients that are not ours: what they may not do, and what they send that is no call.

mod common;

use common::Server;
use holdfast_client_link::{Connection, LinkError, Stream, Transport};
use holdfast_core::ids::ChunkId;
use holdfast_proto::sync::{
    Call, Chunk, ChunkRef, Commit, CommitChunks, Fetch, Have, ListDevices, ListNames, ListSpaces, ListTrash,
    ListVersions, MakeCode, MakeDirectory, MakeSpace, Move, NameChange, NamedVersion, Pair, Piece, Put,
    Range, ReadChanges, ReadManifest, ReadSignatures, Restore, RevokeDevice, Run, ShareFolder, SignIn,
    Upload, VersionOf, call::Call as Asked, failure::Code, name_change::Change, reply::Reply,
};
use std::{io::Write, process::Stdio, time::Duration};

const PASSWORD: &str = "correct horse battery";
const PATIENCE: Duration = Duration::from_secs(20);

struct Door {
    _dir: tempfile::TempDir,
    server: Server,
    address: String,
}

impl Door {
    fn open(users: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        let address = common::free_address();
        let server = Server::start(&data, &["--ec", "2+1", "--devices", "3", "--sync", &address]);
        for user in users {
            let mut create = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
            create.args(["user", "create", user, "--password-stdin", "--data"]).arg(&data);
            let mut create = create.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
            writeln!(create.stdin.take().expect("it reads"), "{PASSWORD}").expect("it reads");
            assert!(create.wait().expect("it ends").success());
        }
        Self { _dir: dir, server, address }
    }

    async fn connect(&self) -> Connection {
        self.connect_by(None).await
    }

    async fn connect_by(&self, transport: Option<Transport>) -> Connection {
        Connection::open(&self.address, None, transport).await.expect("it answers")
    }

    async fn signed_in(&self, user: &str) -> Connection {
        self.signed_in_by(user, None).await
    }

    async fn signed_in_by(&self, user: &str, transport: Option<Transport>) -> Connection {
        let connection = self.connect_by(transport).await;
        let pair = Pair {
            user: user.into(),
            password: PASSWORD.into(),
            device: "a device".into(),
            ..Pair::default()
        };
        let Ok(Some(Reply::Paired(paired))) = call(&connection, Asked::Pair(pair)).await else {
            panic!("it is not paired")
        };
        let sign_in = SignIn { user: user.into(), device: paired.device, secret: paired.secret };
        let asked = Asked::SignIn(sign_in);
        let Ok(Some(Reply::SignedIn(_))) = call(&connection, asked.clone()).await else {
            panic!("it is not signed in")
        };
        connection.greet(Call { call: Some(asked) });
        connection
    }
}

async fn begin(connection: &Connection, asked: Asked) -> Stream {
    let mut stream = connection.stream().await.expect("a stream");
    stream.send(&Call { call: Some(asked) }).await.expect("it is sent");
    stream
}

async fn call(connection: &Connection, asked: Asked) -> Result<Option<Reply>, LinkError> {
    let mut stream = begin(connection, asked).await;
    stream.finish().await.expect("it is sent");
    stream.reply(PATIENCE).await
}

async fn code(connection: &Connection, asked: Asked) -> Option<Code> {
    call(connection, asked).await.expect_err("it is refused").code()
}

fn all_calls(space: &str) -> Vec<Asked> {
    let (space, path, of) = (space.to_owned(), b"file".to_vec(), VersionOf { node: 1, version: 1 });
    let make = Change::MakeDirectory(MakeDirectory { path: b"d/".to_vec() });
    vec![
        Asked::ListNames(ListNames { space: space.clone(), after: Vec::new(), limit: 10 }),
        Asked::ReadChanges(ReadChanges { space: space.clone(), cursor: 0, limit: 10, wait_ms: 0 }),
        Asked::Have(Have { space: space.clone(), chunks: Vec::new(), versions: Vec::new() }),
        Asked::Upload(Upload { space: space.clone() }),
        Asked::Commit(Commit {
            space: space.clone(),
            changes: vec![NameChange { change: Some(make), within: None }],
            more: false,
        }),
        Asked::ReadManifest(ReadManifest { space: space.clone(), path: path.clone(), of: None }),
        Asked::Fetch(Fetch { space: space.clone(), path: path.clone(), of: Some(of), ranges: Vec::new() }),
        Asked::ListVersions(ListVersions { space: space.clone(), path: path.clone() }),
        Asked::Restore(Restore { space: space.clone(), path, version: None }),
        Asked::ListTrash(ListTrash { space, after: Vec::new() }),
    ]
}

async fn send(
    connection: &Connection,
    space: &str,
    chunks: &[(&[u8], &[u8])],
) -> Result<Option<Reply>, LinkError> {
    let mut stream = begin(connection, Asked::Upload(Upload { space: space.into() })).await;
    for (id, data) in chunks {
        stream
            .send(&Chunk { id: id.to_vec(), data: data.to_vec().into(), base: None })
            .await
            .expect("it is sent");
    }
    stream.finish().await.expect("it is sent");
    stream.reply(PATIENCE).await
}

fn commit(space: &str, change: Change) -> Asked {
    Asked::Commit(Commit {
        space: space.into(),
        changes: vec![NameChange { change: Some(change), within: None }],
        more: false,
    })
}

fn put(path: &[u8], data: &[u8]) -> Change {
    let chunk = ChunkRef { id: ChunkId::of(data).as_bytes().to_vec(), bytes: data.len() as u32 };
    Change::Put(Put { path: path.to_vec(), chunks: vec![chunk], ..Put::default() })
}

#[tokio::test]
async fn nobody_gets_anything_without_signing_in() {
    let door = Door::open(&["alice"]);
    let alice = door.signed_in("alice").await;
    let make = Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() });
    call(&alice, make.clone()).await.expect("it is made");
    let stranger = door.connect().await;
    let mut calls = all_calls("docs");
    calls.extend([
        make,
        Asked::ListSpaces(ListSpaces {}),
        Asked::ListDevices(ListDevices {}),
        Asked::RevokeDevice(RevokeDevice { id: "x".into() }),
        Asked::SignIn(SignIn { user: "alice".into(), device: "x".into(), secret: vec![0; 32] }),
        Asked::Pair(Pair {
            user: "alice".into(),
            password: "wrong horse".into(),
            device: "x".into(),
            ..Pair::default()
        }),
        Asked::Pair(Pair {
            user: "nobody".into(),
            password: PASSWORD.into(),
            device: "x".into(),
            ..Pair::default()
        }),
    ]);
    for asked in calls {
        assert_eq!(code(&stranger, asked.clone()).await, Some(Code::NotSignedIn), "{asked:?}");
    }
}

#[tokio::test]
async fn another_user_does_not_learn_that_a_space_is_there() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    let make = Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() });
    call(&alice, make).await.expect("it is made");
    for (there, not) in all_calls("docs").into_iter().zip(all_calls("none")) {
        let (there, not) = (call(&bob, there).await, call(&bob, not).await);
        let told = |answer: Result<_, LinkError>| answer.expect_err("it is refused").to_string();
        assert_eq!(told(there).replace("docs", "none"), told(not));
    }
}

#[tokio::test]
async fn a_hash_is_no_key_to_anybodys_bytes() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    for (connection, space) in [(&alice, "alices"), (&bob, "bobs")] {
        let make = Asked::MakeSpace(MakeSpace { name: space.into(), versions: 3, ..MakeSpace::default() });
        call(connection, make).await.expect("it is made");
    }
    let data = b"what alice alone knows";
    let id = ChunkId::of(data);
    send(&alice, "alices", &[(id.as_bytes(), data)]).await.expect("it is stored");
    let committed = call(&alice, commit("alices", put(b"secret", data))).await.expect("it is committed");
    let Some(Reply::Committed(done)) = committed else { panic!("{committed:?}") };
    let stored = door.server.metric("holdfast_pack_stored_bytes_total");
    // Bob knows the hash, and even the version's numbers.
    let of = VersionOf { node: done.outcomes[0].node, version: done.outcomes[0].version.expect("a file") };
    let named = NamedVersion { path: b"secret".to_vec(), of: Some(of) };
    let have = Have { space: "bobs".into(), chunks: vec![id.as_bytes().to_vec()], versions: vec![named] };
    let Ok(Some(Reply::Had(had))) = call(&bob, Asked::Have(have)).await else { panic!("no answer") };
    assert_eq!(had.known, [false]);
    assert_eq!(code(&bob, commit("bobs", put(b"stolen", data))).await, Some(Code::ChunksGone));
    // Whoever has the bytes may store them, and does not learn that they were there.
    send(&bob, "bobs", &[(id.as_bytes(), data)]).await.expect("it is taken");
    call(&bob, commit("bobs", put(b"own", data))).await.expect("it is committed");
    assert_eq!(door.server.metric("holdfast_pack_stored_bytes_total"), stored, "and they are stored once");
}

#[tokio::test]
async fn what_is_no_call_is_refused_and_harms_nobody() {
    let door = Door::open(&["alice"]);
    let alice = door.signed_in("alice").await;
    call(&alice, Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() }))
        .await
        .expect("it is made");
    // A call of nothing, and bytes that are no message.
    let mut empty = alice.stream().await.expect("a stream");
    empty.send(&Call { call: None }).await.expect("it is sent");
    assert_eq!(empty.reply(PATIENCE).await.expect_err("it is refused").code(), Some(Code::Malformed));
    let mut noise = alice.stream().await.expect("a stream");
    noise
        .send(&Chunk { id: vec![0xff; 100], data: vec![0xff; 1000].into(), base: None })
        .await
        .expect("it is sent");
    assert_eq!(noise.reply(PATIENCE).await.expect_err("it is refused").code(), Some(Code::Malformed));
    let mut huge = alice.stream().await.expect("a stream");
    let sent = huge.send(&Chunk { data: vec![0; 5 << 20].into(), ..Chunk::default() }).await;
    let answer = huge.reply(PATIENCE).await;
    assert!(sent.is_err() || answer.is_err());
    // Chunks that are not what they say, or are none.
    for (id, data) in
        [(&[7; 32][..], &b"other bytes"[..]), (&[7; 31], b"x"), (ChunkId::of(b"").as_bytes(), b"")]
    {
        let refused = send(&alice, "docs", &[(id, data)]).await.expect_err("it is refused");
        assert_eq!(refused.code(), Some(Code::Malformed), "{data:?}");
    }
    let large = vec![1; (1 << 20) + 1];
    let refused = send(&alice, "docs", &[(ChunkId::of(&large).as_bytes(), &large)]).await;
    assert_eq!(refused.expect_err("it is refused").code(), Some(Code::Malformed));
    // Paths that lead out, or are none; a length that is not the chunk's; changes that are none.
    let data = b"good";
    send(&alice, "docs", &[(ChunkId::of(data).as_bytes(), data)]).await.expect("it is stored");
    for path in [&b"../x"[..], b"a/../x", b"/x", b"", b"a//x", b"a\0b", b".", &[b'x'; 1025]] {
        assert_eq!(code(&alice, commit("docs", put(path, data))).await, Some(Code::Invalid), "{path:?}");
    }
    let longer = ChunkRef { id: ChunkId::of(data).as_bytes().to_vec(), bytes: 5 };
    let lie = Put { path: b"x".to_vec(), chunks: vec![longer], ..Put::default() };
    assert_eq!(code(&alice, commit("docs", Change::Put(lie))).await, Some(Code::ChunksGone));
    let none = Commit {
        space: "docs".into(),
        changes: vec![NameChange { change: None, within: None }],
        more: false,
    };
    assert_eq!(code(&alice, Asked::Commit(none)).await, Some(Code::Malformed));
    let many = Commit {
        space: "docs".into(),
        changes: vec![NameChange { change: None, within: None }; 513],
        more: false,
    };
    assert_eq!(code(&alice, Asked::Commit(many)).await, Some(Code::Malformed));
    let moved = Change::Move(Move { node: 77, from: b"x".to_vec(), to: b"y".to_vec() });
    assert_eq!(code(&alice, commit("docs", moved)).await, Some(Code::Overtaken));
    for name in ["", "A", ".system", "x", "../docs", "docs/..", &"x".repeat(64)] {
        let make = MakeSpace { name: name.into(), versions: 3, ..MakeSpace::default() };
        assert_eq!(code(&alice, Asked::MakeSpace(make)).await, Some(Code::Invalid), "{name:?}");
    }
    let make = MakeSpace { name: "zero".into(), versions: 0, ..MakeSpace::default() };
    assert_eq!(code(&alice, Asked::MakeSpace(make)).await, Some(Code::Invalid));
    assert!(door.server.client().list("docs", "").is_empty(), "nothing of it was written");
}

#[tokio::test]
async fn another_server_than_the_one_that_is_known_is_not_spoken_to() {
    let door = Door::open(&[]);
    let other = Door::open(&[]);
    let known = door.connect().await.fingerprint;
    assert!(Connection::open(&door.address, Some(known), None).await.is_ok());
    let refused = Connection::open(&other.address, Some(known), None).await.err();
    assert!(matches!(refused, Some(LinkError::OtherServer(_))), "{refused:?}");
}

async fn known(connection: &Connection, space: &str, id: ChunkId, versions: Vec<NamedVersion>) -> bool {
    let have = Have { space: space.into(), chunks: vec![id.as_bytes().to_vec()], versions };
    let Ok(Some(Reply::Had(had))) = call(connection, Asked::Have(have)).await else { panic!("no answer") };
    had.known == [true]
}

#[tokio::test]
async fn what_was_sent_before_the_line_went_down_is_not_sent_again() {
    let door = Door::open(&["alice"]);
    let alice = door.signed_in("alice").await;
    call(&alice, Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() }))
        .await
        .expect("it is made");
    let data = b"sent, and not committed";
    let id = ChunkId::of(data);
    assert!(!known(&alice, "docs", id, Vec::new()).await);
    send(&alice, "docs", &[(id.as_bytes(), data)]).await.expect("it is stored");
    assert!(known(&alice, "docs", id, Vec::new()).await);
    // A file whose chunks come in frames of their own.
    let Change::Put(mut file) = put(b"file", data) else { panic!("it is a file") };
    let chunks = std::mem::take(&mut file.chunks);
    let changes = vec![NameChange { change: Some(Change::Put(file)), within: None }];
    let commit = Asked::Commit(Commit { space: "docs".into(), changes: changes.clone(), more: true });
    let mut stream = begin(&alice, commit.clone()).await;
    stream.send(&CommitChunks { at: 0, chunks: chunks.clone() }).await.expect("it is sent");
    stream.finish().await.expect("it is sent");
    assert!(matches!(stream.reply(PATIENCE).await, Ok(Some(Reply::Committed(_)))));
    assert_eq!(door.server.client().get("/docs/file"), data);
    // Chunks of a change that there is not.
    let mut stream = begin(&alice, commit).await;
    stream.send(&CommitChunks { at: 7, chunks }).await.expect("it is sent");
    stream.finish().await.expect("it is sent");
    let refused = stream.reply(PATIENCE).await.expect_err("it is refused");
    assert_eq!(refused.code(), Some(Code::Malformed));
}

#[tokio::test]
async fn what_may_not_be_read_is_not_moved_to_where_it_may() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    call(&alice, Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() }))
        .await
        .expect("it is made");
    let data = b"not for bob";
    let id = ChunkId::of(data);
    send(&alice, "docs", &[(id.as_bytes(), data)]).await.expect("it is stored");
    let mut nodes = Vec::new();
    for path in [&b"secret"[..], b"team/secret/file", b"open/file"] {
        let done = call(&alice, commit("docs", put(path, data))).await.expect("it is committed");
        let Some(Reply::Committed(done)) = done else { panic!("{done:?}") };
        nodes.push(VersionOf {
            node: done.outcomes[0].node,
            version: done.outcomes[0].version.expect("a file"),
        });
    }
    let policy = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Principal":"*","Action":["s3:ListBucket","s3:GetObject","s3:PutObject","s3:DeleteObject"],
         "Resource":["arn:aws:s3:::docs","arn:aws:s3:::docs/*"]},
        {"Effect":"Deny","Principal":"*","Action":"s3:GetObject",
         "Resource":["arn:aws:s3:::docs/secret","arn:aws:s3:::docs/team/secret/*"]}]}"#;
    let s3 = door.server.client();
    let answer = s3.request("PUT", "/docs", &[("publicAccessBlock", "")], PUBLIC);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = s3.request("PUT", "/docs", &[("policy", "")], policy.as_bytes());
    assert_eq!(answer.status, 204, "{}", answer.text());
    let Ok(Some(Reply::Names(names))) =
        call(&bob, Asked::ListNames(ListNames { space: "docs".into(), after: Vec::new(), limit: 100 })).await
    else {
        panic!("bob may list")
    };
    let node = |name: &[u8]| names.names.iter().find(|found| found.name == name).expect("it is listed").node;
    let moved = |node, from: &[u8], to: &[u8]| Change::Move(Move { node, from: from.into(), to: to.into() });
    let file = moved(nodes[0].node, b"secret", b"mine");
    assert_eq!(code(&bob, commit("docs", file)).await, Some(Code::Denied));
    let directory = moved(node(b"team"), b"team/", b"mine/");
    assert_eq!(code(&bob, commit("docs", directory)).await, Some(Code::Denied));
    // Nor is its content told by its hash.
    let named = |path: &[u8]| vec![NamedVersion { path: path.to_vec(), of: Some(nodes[0]) }];
    assert!(!known(&bob, "docs", id, named(b"secret")).await);
    assert!(!known(&bob, "docs", id, named(b"open/file")).await, "it is another file's");
    assert_eq!(code(&bob, commit("docs", put(b"stolen", data))).await, Some(Code::ChunksGone));
    // What no policy tells apart is his to move.
    let open = moved(node(b"open"), b"open/", b"opened/");
    call(&bob, commit("docs", open)).await.expect("it is moved");
}

const PUBLIC: &[u8] = b"<PublicAccessBlockConfiguration><BlockPublicAcls>false</BlockPublicAcls>\
    <IgnorePublicAcls>false</IgnorePublicAcls><BlockPublicPolicy>false</BlockPublicPolicy>\
    <RestrictPublicBuckets>false</RestrictPublicBuckets></PublicAccessBlockConfiguration>";

#[tokio::test]
async fn a_space_that_encrypts_is_written_to_by_s3_alone() {
    let door = Door::open(&["alice"]);
    let alice = door.signed_in("alice").await;
    call(&alice, Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() }))
        .await
        .expect("it is made");
    let data = b"a plain marker";
    send(&alice, "docs", &[(ChunkId::of(data).as_bytes(), data)]).await.expect("it is stored");
    let rule = b"<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
        <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    let answer = door.server.client().request("PUT", "/docs", &[("encryption", "")], rule);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(code(&alice, commit("docs", put(b"file", data))).await, Some(Code::Invalid));
}

#[tokio::test]
async fn strangers_send_little_and_say_soon_who_they_are() {
    let door = Door::open(&["alice"]);
    let stranger = door.connect().await;
    let mut large = stranger.stream().await.expect("a stream");
    let changes = vec![NameChange { change: None, within: None }; 10_000];
    let commit = Asked::Commit(Commit { space: "docs".into(), changes, more: false });
    large.send(&Call { call: Some(commit) }).await.expect("it is sent");
    assert_eq!(large.reply(PATIENCE).await.expect_err("it is refused").code(), Some(Code::Malformed));
    // It is still served, as it should be.
    let asked = Asked::ListSpaces(ListSpaces {});
    assert_eq!(code(&stranger, asked).await, Some(Code::NotSignedIn));
}

/// A code for another device of the connection's.
async fn code_of(connection: &Connection) -> String {
    let Ok(Some(Reply::Code(made))) = call(connection, Asked::MakeCode(MakeCode {})).await else {
        panic!("it is made")
    };
    made.code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_pairs_one_device_of_one_user() {
    let door = Door::open(&["alice", "bob"]);
    let alice = door.signed_in("alice").await;
    let by = |user: &str, code: &str| {
        let (user, code) = (user.to_owned(), code.to_owned());
        Asked::Pair(Pair { user, code, device: "phone".into(), ..Pair::default() })
    };
    let old = code_of(&alice).await;
    assert_eq!(self::code(&alice, Asked::MakeCode(MakeCode {})).await, Some(Code::Busy), "not all the time");
    let code = loop {
        match call(&alice, Asked::MakeCode(MakeCode {})).await {
            Ok(Some(Reply::Code(made))) => break made.code,
            other => assert!(matches!(&other, Err(error) if error.code() == Some(Code::Busy)), "{other:?}"),
        }
    };
    let stranger = door.connect().await;
    for (user, wrong) in
        [("alice", old.as_str()), ("bob", &code), ("nobody", &code), ("alice", "23456-23456")]
    {
        assert_eq!(self::code(&stranger, by(user, wrong)).await, Some(Code::NotSignedIn), "{user} {wrong}");
    }
    let typed = code.to_lowercase().replace('-', " ");
    assert!(matches!(call(&stranger, by("alice", &typed)).await, Ok(Some(Reply::Paired(_)))));
    assert_eq!(self::code(&stranger, by("alice", &code)).await, Some(Code::NotSignedIn), "it is good once");
    // No password is as good as none.
    let nothing = Pair { user: "alice".into(), device: "x".into(), ..Pair::default() };
    assert_eq!(self::code(&stranger, Asked::Pair(nothing)).await, Some(Code::NotSignedIn));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp_calls_are_the_same_calls() {
    let door = Door::open(&["alice", "bob"]);
    let alice = door.signed_in_by("alice", Some(Transport::Tcp)).await;
    assert_eq!(alice.transport(), Transport::Tcp);
    let make = Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() });
    assert!(call(&alice, make).await.is_ok());
    // Many at once, each on a connection of its own, which is signed in as the first one.
    let data: Vec<Vec<u8>> = (0..20).map(|seed| common::noise(seed, 300_000)).collect();
    let ids: Vec<ChunkId> = data.iter().map(|data| ChunkId::of(data)).collect();
    let chunks: Vec<_> = ids.iter().zip(&data).map(|(id, data)| (&id.as_bytes()[..], &data[..])).collect();
    let sends = chunks.chunks(1).map(|chunk| send(&alice, "docs", chunk));
    for sent in futures::future::join_all(sends).await {
        assert!(sent.is_ok(), "{sent:?}");
    }
    for (n, data) in data.iter().enumerate() {
        let done = call(&alice, commit("docs", put(format!("file{n}").as_bytes(), data))).await;
        assert!(matches!(done, Ok(Some(Reply::Committed(_)))), "{done:?}");
    }
    // A refusal in the middle of what is sent is heard, and the connection goes on.
    let wrong = call(&alice, Asked::Upload(Upload { space: "none".into() })).await;
    assert!(matches!(wrong, Err(LinkError::Refused(_))));
    let server = door.server.client();
    assert_eq!(server.request("GET", "/docs/file7", &[], b"").body, data[7]);
    // Nobody else is let in by a connection that somebody signed in on.
    let stranger = door.connect_by(Some(Transport::Tcp)).await;
    assert_eq!(code(&stranger, Asked::ListSpaces(ListSpaces {})).await, Some(Code::NotSignedIn));
    // And it is the server that is known, or none.
    let other = Door::open(&["alice"]);
    let known = Some(alice.fingerprint);
    let refused = Connection::open(&other.address, known, Some(Transport::Tcp)).await.err();
    assert!(matches!(refused, Some(LinkError::OtherServer(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_keeps_nobody_else_waiting() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    let make = Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() });
    assert!(call(&alice, make).await.is_ok());
    // Frames that begin, and do not go on.
    let mut slow = Vec::new();
    for _ in 0..32 {
        let mut stream = bob.stream().await.expect("it is open");
        stream.send_raw(&(4u32 << 20).to_le_bytes()).await.expect("it is sent");
        slow.push(stream);
    }
    let ids = (0..4096u64).map(|n| ChunkId::of(&n.to_le_bytes()).as_bytes().to_vec()).collect();
    let have = Have { space: "docs".into(), chunks: ids, versions: Vec::new() };
    assert!(matches!(call(&alice, Asked::Have(have)).await, Ok(Some(Reply::Had(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_unshared_in_the_middle_of_a_commit_commits_nothing() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    let make = Asked::MakeSpace(MakeSpace { name: "docs".into(), versions: 3, ..MakeSpace::default() });
    assert!(call(&alice, make).await.is_ok());
    let team = Change::MakeDirectory(MakeDirectory { path: b"team/".to_vec() });
    assert!(call(&alice, commit("docs", team)).await.is_ok());
    let share = |role: &str| {
        Asked::ShareFolder(ShareFolder {
            space: "docs".into(),
            path: b"team".to_vec(),
            user: "bob".into(),
            role: role.into(),
        })
    };
    assert!(call(&alice, share("editor")).await.is_ok());
    send(&bob, "docs/team", &[(ChunkId::of(b"mine").as_bytes(), b"mine")]).await.expect("it is sent");
    let Asked::Commit(commit) = commit("docs/team", put(b"file", b"mine")) else { panic!("a commit") };
    let mut stream = begin(&bob, Asked::Commit(Commit { more: true, ..commit })).await;
    assert!(call(&alice, share("")).await.is_ok());
    stream.finish().await.expect("it is sent");
    let refused = stream.reply(common::SOON).await.err().and_then(|error| error.code());
    assert_eq!(refused, Some(Code::NotFound));
    assert_eq!(door.server.client().request("HEAD", "/docs/team/file", &[], b"").status, 404);
    // And what nobody shared cannot be taken back.
    assert_eq!(self::code(&alice, share("")).await, Some(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_and_deltas_lean_on_what_may_be_read_alone() {
    let door = Door::open(&["alice", "bob"]);
    let (alice, bob) = (door.signed_in("alice").await, door.signed_in("bob").await);
    for (who, space) in [(&alice, "docs"), (&bob, "bobs")] {
        call(who, Asked::MakeSpace(MakeSpace { name: space.into(), versions: 3, ..MakeSpace::default() }))
            .await
            .expect("it is made");
    }
    let data = common::noise(1, 300_000);
    let id = ChunkId::of(&data);
    send(&alice, "docs", &[(id.as_bytes(), &data)]).await.expect("it is stored");
    let Ok(Some(Reply::Committed(done))) = call(&alice, commit("docs", put(b"secret", &data))).await else {
        panic!("it is committed")
    };
    let of = VersionOf { node: done.outcomes[0].node, version: done.outcomes[0].version.expect("a file") };
    let range = Range { start: 0, end: 300_000 };
    let piece = |range| Piece { path: b"secret".to_vec(), of: Some(of), range: Some(range) };
    let signatures = |space: &str, range| {
        let (space, path) = (space.to_owned(), b"secret".to_vec());
        Asked::ReadSignatures(ReadSignatures { space, path, of: Some(of), ranges: vec![range] })
    };
    // The signature of what another may not read would tell what it is.
    for space in ["docs", "bobs"] {
        assert_eq!(code(&bob, signatures(space, range)).await, Some(Code::NotFound), "{space}");
    }
    for wrong in
        [Range { start: 5, end: 5 }, Range { start: 0, end: 300_001 }, Range { start: 1, end: u64::MAX }]
    {
        assert_eq!(code(&alice, signatures("docs", wrong)).await, Some(Code::Malformed), "{wrong:?}");
    }
    // The delta that says: all of it.
    let begin_delta = [0x72, 0x73, 0x02, 0x36];
    let copy = [&[0x4f, 0, 0, 0, 0][..], &300_000u32.to_be_bytes()].concat();
    let all = [&begin_delta[..], &copy, &[0]].concat();
    let bomb = [&begin_delta[..], &copy.repeat(10_000), &[0]].concat();
    let upload = async |who: &Connection, space: &str, delta: &[u8]| {
        let mut stream = begin(who, Asked::Upload(Upload { space: space.into() })).await;
        let (id, data) = (id.as_bytes().to_vec(), delta.to_vec().into());
        stream.send(&Chunk { id, data, base: Some(piece(range)) }).await.expect("it is sent");
        stream.finish().await.expect("it is sent");
        stream.reply(PATIENCE).await.err().and_then(|error| error.code())
    };
    assert_eq!(upload(&bob, "bobs", &all).await, Some(Code::NotFound));
    for wrong in [&b"nonsense"[..], &[], &all[..7], &all.repeat(20), &bomb] {
        assert_eq!(upload(&alice, "docs", wrong).await, Some(Code::Malformed), "{} bytes", wrong.len());
    }
    assert_eq!(upload(&alice, "docs", &all).await, None);
    // Runs of what is not there, of nothing, of more than there is.
    let run = |first, count| Run { first, count };
    let wrong = [
        vec![run(Some(0), 2)],
        vec![run(Some(1), 1)],
        vec![run(Some(u32::MAX), u32::MAX)],
        vec![run(None, 1)],
        vec![run(None, u32::MAX)],
    ];
    for runs in wrong {
        let put = Put { path: b"secret".to_vec(), on: Some(of), runs: runs.clone(), ..Put::default() };
        let refused = code(&alice, commit("docs", Change::Put(put))).await;
        assert!(matches!(refused, Some(Code::Malformed | Code::Invalid)), "{runs:?}: {refused:?}");
    }
    let stolen =
        Put { path: b"secret".to_vec(), on: Some(of), runs: vec![run(Some(0), 1)], ..Put::default() };
    assert_eq!(code(&bob, commit("bobs", Change::Put(stolen.clone()))).await, Some(Code::Overtaken));
    assert!(call(&alice, commit("docs", Change::Put(stolen))).await.is_ok(), "it is hers");
    assert_eq!(door.server.client().request("GET", "/docs/secret", &[], b"").body, data);
}
