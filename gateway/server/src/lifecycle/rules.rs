//! What a bucket's lifecycle rules say of the history of a key. Decides, and does nothing.

use crate::s3::unix_ms_of;
use holdfast_core::ids::VersionId;
use holdfast_meta_raft_machine::{list::VersionShown, records::VersionName};
use s3s::dto::{
    BucketLifecycleConfiguration, ExpirationStatus, LifecycleRule, NoncurrentVersionTransition, Tag,
    Transition,
};
use std::collections::BTreeSet;

/// How long a day is, in milliseconds. A real one ends at midnight; shorter ones are for trying rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day(pub u64);

impl Day {
    pub const REAL: Self = Self(24 * 60 * 60 * 1000);

    /// When something of `from_ms` is so many days old: at the midnight that follows.
    fn after(self, from_ms: u64, days: u64) -> u64 {
        let due = from_ms.saturating_add(days.saturating_mul(self.0));
        if self == Self::REAL { due.next_multiple_of(self.0) } else { due }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Days after it was written.
    Days(u64),
    /// Milliseconds since 1970.
    Date(u64),
}

impl When {
    /// In milliseconds since 1970, for what was written at `from_ms`.
    fn due_ms(self, from_ms: u64, day: Day) -> u64 {
        match self {
            Self::Days(days) => day.after(from_ms, days),
            Self::Date(at) => at,
        }
    }
}

/// A rule that is enabled.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rule {
    id: String,
    prefix: Vec<u8>,
    tags: Vec<(String, String)>,
    larger_than: Option<u64>,
    smaller_than: Option<u64>,
    expire: Option<When>,
    expire_markers: bool,
    /// Days after another version took a version's place, and how many such versions are kept whatever their age.
    expire_noncurrent: Option<(u64, usize)>,
    abort_uploads: Option<u64>,
    /// To which storage classes it moves objects, and when.
    moves: Vec<(When, String)>,
    /// The same of versions whose place another took: days since then, and how many stay whatever their age.
    moves_noncurrent: Vec<(u64, usize, String)>,
}

/// The storage classes that rules move objects to, each to those behind it only ("Supported transitions", Amazon S3 user
/// guide).
pub const COLDER: [&str; 6] =
    ["STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE"];

/// How cold a storage class is.
fn coldness(class: Option<&str>) -> usize {
    class.and_then(|class| COLDER.iter().position(|known| *known == class)).map_or(0, |at| at + 1)
}

/// A version that is to be moved to a storage class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move<'a> {
    /// Which one of the history.
    pub at: usize,
    pub class: &'a str,
}

/// What is to be done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Deletes what is there: behind a marker, where versions are kept.
    Expire,
    /// Removes one version for good whose place another has taken.
    Remove(VersionName, VersionId),
    /// Removes a delete marker with nothing under it.
    Uncover(VersionName, VersionId),
}

fn count(number: Option<i32>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

fn transition(wanted: &Transition) -> Option<(When, String)> {
    let class = wanted.storage_class.as_ref()?.as_str().to_owned();
    let days = count(wanted.days).map(When::Days);
    Some((days.or_else(|| wanted.date.as_ref().map(|at| When::Date(unix_ms_of(at))))?, class))
}

fn noncurrent_transitions(rule: &LifecycleRule) -> Vec<(u64, usize, String)> {
    let read = |wanted: &NoncurrentVersionTransition| {
        let kept = count(wanted.newer_noncurrent_versions).unwrap_or(0) as usize;
        Some((count(wanted.noncurrent_days)?, kept, wanted.storage_class.as_ref()?.as_str().to_owned()))
    };
    rule.noncurrent_version_transitions.iter().flatten().filter_map(read).collect()
}

impl Rule {
    fn read(rule: &LifecycleRule) -> Self {
        let pair = |tag: &Tag| (tag.key.clone().unwrap_or_default(), tag.value.clone().unwrap_or_default());
        let size = |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let filter = rule.filter.as_ref();
        let and = filter.and_then(|filter| filter.and.as_ref());
        let prefix = rule.prefix.as_ref().or(filter.and_then(|filter| filter.prefix.as_ref()));
        let prefix = prefix.or(and.and_then(|and| and.prefix.as_ref()));
        let one = filter.and_then(|filter| filter.tag.as_ref());
        let many = and.and_then(|and| and.tags.as_ref()).into_iter().flatten();
        let larger = filter.and_then(|filter| filter.object_size_greater_than);
        let smaller = filter.and_then(|filter| filter.object_size_less_than);
        let expiration = rule.expiration.as_ref();
        let days = expiration.and_then(|wanted| count(wanted.days)).map(When::Days);
        let date = expiration.and_then(|wanted| wanted.date.as_ref()).map(|at| When::Date(unix_ms_of(at)));
        let noncurrent = rule.noncurrent_version_expiration.as_ref();
        let uploads = rule.abort_incomplete_multipart_upload.as_ref();
        Self {
            id: rule.id.clone().unwrap_or_default(),
            prefix: prefix.cloned().unwrap_or_default().into_bytes(),
            tags: one.into_iter().chain(many).map(pair).collect(),
            larger_than: size(larger.or(and.and_then(|and| and.object_size_greater_than))),
            smaller_than: size(smaller.or(and.and_then(|and| and.object_size_less_than))),
            expire: days.or(date),
            expire_markers: expiration
                .is_some_and(|wanted| wanted.expired_object_delete_marker == Some(true)),
            expire_noncurrent: noncurrent.and_then(|wanted| {
                let kept = count(wanted.newer_noncurrent_versions).unwrap_or(0) as usize;
                Some((count(wanted.noncurrent_days)?, kept))
            }),
            abort_uploads: uploads.and_then(|wanted| count(wanted.days_after_initiation)),
            moves: rule.transitions.iter().flatten().filter_map(transition).collect(),
            moves_noncurrent: noncurrent_transitions(rule),
        }
    }

    /// Whether it moves anything to another storage class.
    pub fn moves(&self) -> bool {
        !self.moves.is_empty() || !self.moves_noncurrent.is_empty()
    }

    /// The rules of a configuration that are enabled.
    pub fn all(config: &BucketLifecycleConfiguration) -> Vec<Self> {
        let enabled = |rule: &&LifecycleRule| rule.status.as_str() == ExpirationStatus::ENABLED;
        config.rules.iter().filter(enabled).map(Self::read).collect()
    }

    fn is_about(&self, key: &[u8], bytes: u64, tags: &[(String, String)]) -> bool {
        key.starts_with(&self.prefix)
            && self.larger_than.is_none_or(|least| bytes > least)
            && self.smaller_than.is_none_or(|most| bytes < most)
            && self.tags.iter().all(|tag| tags.contains(tag))
    }

    /// When it expires an object, in milliseconds since 1970.
    fn expires_at(
        &self,
        key: &[u8],
        bytes: u64,
        tags: &[(String, String)],
        written_ms: u64,
        day: Day,
    ) -> Option<u64> {
        let when = self.expire.filter(|_| self.is_about(key, bytes, tags))?;
        Some(when.due_ms(written_ms, day))
    }
}

/// When an object expires, and by which rule.
pub fn expiry<'a>(
    rules: &'a [Rule],
    key: &[u8],
    bytes: u64,
    tags: &[(String, String)],
    written_ms: u64,
    day: Day,
) -> Option<(u64, &'a str)> {
    let of = |rule: &'a Rule| Some((rule.expires_at(key, bytes, tags, written_ms, day)?, rule.id.as_str()));
    rules.iter().filter_map(of).min()
}

/// Whether an upload is given up that began at `began_ms`.
pub fn gives_up(rules: &[Rule], key: &[u8], began_ms: u64, now_ms: u64, day: Day) -> bool {
    rules.iter().any(|rule| {
        let plain = rule.tags.is_empty() && rule.larger_than.is_none() && rule.smaller_than.is_none();
        let due = rule.abort_uploads.filter(|_| plain && key.starts_with(&rule.prefix));
        due.is_some_and(|days| day.after(began_ms, days) <= now_ms)
    })
}

/// Where versions of a key are to be moved, whose `classes` are given as they are. Of several classes it is the coldest.
pub fn moves<'a>(
    rules: &'a [Rule],
    history: &[VersionShown],
    classes: &[Option<String>],
    now_ms: u64,
    day: Day,
) -> Vec<Move<'a>> {
    let coldest = |at: usize| {
        let version = &history[at];
        let about = rules.iter().filter(|rule| rule.is_about(&version.key, version.bytes, &version.tags));
        let due = about.flat_map(|rule| {
            let current = rule
                .moves
                .iter()
                .filter(move |(when, _)| at == 0 && when.due_ms(version.modified_ms, day) <= now_ms);
            let older = rule.moves_noncurrent.iter().filter(move |(days, kept, _)| {
                at > *kept && day.after(history[at - 1].modified_ms, *days) <= now_ms
            });
            current.map(|(_, class)| class.as_str()).chain(older.map(|(_, _, class)| class.as_str()))
        });
        let coldest = due.max_by_key(|class| coldness(Some(class)))?;
        let now = classes.get(at).and_then(Option::as_deref);
        (coldness(Some(coldest)) > coldness(now)).then_some(Move { at, class: coldest })
    };
    let versions = (0..history.len()).filter(|at| !history[*at].marker);
    versions.filter_map(coldest).collect()
}

/// Which versions are too near to ones before them to be kept, once they are a day old: of a program's that saves every
/// second, one in `spacing_ms`. What is there, and what was deleted last, is not among them, nor what is `pinned`.
fn crowded(
    history: &[VersionShown],
    spacing_ms: u64,
    pinned: &BTreeSet<VersionId>,
    now_ms: u64,
    day: Day,
) -> BTreeSet<usize> {
    let (mut crowded, mut before) = (BTreeSet::new(), None);
    for (at, version) in history.iter().enumerate().skip(1).rev() {
        let is_last = history[..at].iter().all(|newer| newer.marker);
        let aged = day.after(history[at - 1].modified_ms, 1) <= now_ms;
        let is_near = before.is_some_and(|before| version.modified_ms < before + spacing_ms);
        let stays = version.marker || is_last || pinned.contains(&version.id) || !aged;
        if is_near && !stays {
            crowded.insert(at);
        } else {
            before = Some(version.modified_ms);
        }
    }
    crowded
}

/// What a bucket wants of its versions beside its rules.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    /// See [`crowded`].
    pub spacing_ms: Option<u64>,
    /// Versions that no rule takes.
    pub pinned: BTreeSet<VersionId>,
}

/// What is to be done with a key, whose versions are given from the newest to the oldest.
pub fn actions(
    rules: &[Rule],
    keeping: &Keeping,
    history: &[VersionShown],
    now_ms: u64,
    day: Day,
) -> Vec<Action> {
    let Some(newest) = history.first() else { return Vec::new() };
    let crowded = match keeping.spacing_ms {
        Some(spacing) => crowded(history, spacing, &keeping.pinned, now_ms, day),
        None => BTreeSet::new(),
    };
    let (mut actions, mut newer) = (Vec::new(), 0);
    for (at, version) in history.iter().enumerate().skip(1) {
        if crowded.contains(&at) {
            actions.push(Action::Remove(version.name, version.id));
            continue;
        }
        newer += 1;
        if keeping.pinned.contains(&version.id) {
            continue;
        }
        // From when on it was not the current one any more.
        let since_ms = history[at - 1].modified_ms;
        let gone = rules.iter().any(|rule| {
            let about = rule.is_about(&version.key, version.bytes, &version.tags);
            let wanted = rule.expire_noncurrent.filter(|_| about);
            wanted.is_some_and(|(days, kept)| newer > kept && day.after(since_ms, days) <= now_ms)
        });
        if gone {
            actions.push(Action::Remove(version.name, version.id));
        }
    }
    if !newest.marker {
        let due = expiry(rules, &newest.key, newest.bytes, &newest.tags, newest.modified_ms, day);
        if due.is_some_and(|(at, _)| at <= now_ms) {
            actions.push(Action::Expire);
        }
        return actions;
    }
    // A marker under which nothing is left hides nothing. What is to go from under it may yet be held: the next pass sees.
    let alone = history.len() == 1;
    let done = |rule: &Rule| {
        let about = rule.tags.is_empty() && newest.key.starts_with(&rule.prefix);
        let aged = rule.expire.is_some_and(|when| when.due_ms(newest.modified_ms, day) <= now_ms);
        about && (rule.expire_markers || aged)
    };
    if alone && rules.iter().any(done) {
        actions.push(Action::Uncover(newest.name, newest.id));
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_meta_raft_machine::records::Etag;

    const DAY: Day = Day(1000);

    fn shown(id: u64, modified_ms: u64, marker: bool) -> VersionShown {
        VersionShown {
            key: b"logs/a".to_vec(),
            id: VersionId(id),
            name: VersionName::Id(VersionId(id)),
            latest: false,
            marker,
            modified_ms,
            bytes: 100,
            etag: Etag::Md5([0; 16]),
            checksum: None,
            owner: String::new(),
            tags: vec![("kind".into(), "log".into())],
        }
    }

    fn rule() -> Rule {
        Rule { id: "r".into(), prefix: b"logs/".to_vec(), ..Rule::default() }
    }

    fn id(number: u64) -> Action {
        Action::Remove(VersionName::Id(VersionId(number)), VersionId(number))
    }

    fn marker(number: u64) -> Action {
        Action::Uncover(VersionName::Id(VersionId(number)), VersionId(number))
    }

    #[test]
    fn versions_move_to_the_coldest_class_that_is_due_and_never_back() {
        let rules = [Rule {
            moves: vec![(When::Days(1), "STANDARD_IA".into()), (When::Days(3), "GLACIER".into())],
            moves_noncurrent: vec![(2, 1, "DEEP_ARCHIVE".into())],
            ..rule()
        }];
        let history = [shown(3, 5000, false), shown(2, 4000, false), shown(1, 1000, false)];
        let at = |now, classes: &[Option<&str>]| {
            let classes: Vec<_> = classes.iter().map(|class| class.map(str::to_owned)).collect();
            moves(&rules, &history, &classes, now, DAY)
                .into_iter()
                .map(|to| (to.at, to.class.to_owned()))
                .collect::<Vec<_>>()
        };
        let to = |at: usize, class: &str| (at, class.to_owned());
        assert_eq!(at(5999, &[None; 3]), []);
        assert_eq!(at(6000, &[None; 3]), [to(0, "STANDARD_IA"), to(2, "DEEP_ARCHIVE")]);
        assert_eq!(at(8000, &[Some("STANDARD_IA"), None, Some("DEEP_ARCHIVE")]), [to(0, "GLACIER")]);
        assert_eq!(at(8000, &[Some("DEEP_ARCHIVE"), None, Some("DEEP_ARCHIVE")]), []);
        let strange = [Rule { prefix: b"other".to_vec(), ..rules[0].clone() }];
        assert_eq!(moves(&strange, &history, &[const { None }; 3], 99_000, DAY), []);
        let gone = [shown(4, 9000, true)];
        assert_eq!(moves(&rules, &gone, &[None], 99_000, DAY), [], "a marker is nothing to move");
    }

    #[test]
    fn real_days_end_at_midnight() {
        let day = Day::REAL;
        assert_eq!(day.after(1, 1), 2 * day.0);
        assert_eq!(day.after(0, 1), day.0);
        assert_eq!(DAY.after(1, 1), 1001);
    }

    #[test]
    fn current_versions_expire_by_age_date_and_filter() {
        let rules = [Rule { expire: Some(When::Days(3)), ..rule() }];
        let history = [shown(1, 5000, false)];
        assert_eq!(actions(&rules, &Keeping::default(), &history, 7999, DAY), []);
        assert_eq!(actions(&rules, &Keeping::default(), &history, 8000, DAY), [Action::Expire]);
        for strange in [
            Rule { prefix: b"other".to_vec(), ..rules[0].clone() },
            Rule { larger_than: Some(100), ..rules[0].clone() },
            Rule { smaller_than: Some(100), ..rules[0].clone() },
            Rule { tags: vec![("kind".into(), "other".into())], ..rules[0].clone() },
        ] {
            assert_eq!(actions(&[strange], &Keeping::default(), &history, 99_999, DAY), []);
        }
        let tagged =
            Rule { tags: vec![("kind".into(), "log".into())], larger_than: Some(99), ..rules[0].clone() };
        assert_eq!(actions(&[tagged], &Keeping::default(), &history, 8000, DAY), [Action::Expire]);
        let dated = [Rule { expire: Some(When::Date(6000)), ..rule() }];
        assert_eq!(actions(&dated, &Keeping::default(), &history, 5999, DAY), []);
        assert_eq!(actions(&dated, &Keeping::default(), &history, 6000, DAY), [Action::Expire]);
    }

    #[test]
    fn noncurrent_versions_go_by_the_time_since_they_were_replaced() {
        let history =
            [shown(4, 9000, false), shown(3, 8000, false), shown(2, 2000, false), shown(1, 1000, false)];
        let rules = [Rule { expire_noncurrent: Some((2, 0)), ..rule() }];
        assert_eq!(actions(&rules, &Keeping::default(), &history, 9999, DAY), [id(1)], "replaced at 2000");
        assert_eq!(
            actions(&rules, &Keeping::default(), &history, 10_000, DAY),
            [id(2), id(1)],
            "replaced at 8000"
        );
        assert_eq!(actions(&rules, &Keeping::default(), &history, 11_000, DAY), [id(3), id(2), id(1)]);
        let rules = [Rule { expire_noncurrent: Some((2, 2)), ..rule() }];
        assert_eq!(actions(&rules, &Keeping::default(), &history, 99_000, DAY), [id(1)], "two are kept");
    }

    #[test]
    fn of_versions_that_crowd_each_other_some_are_kept() {
        // Saved every 10 ms for a while, and then again.
        let times = [9000, 5000, 2050, 2040, 2030, 2020, 2010, 2000, 1000];
        let history: Vec<_> =
            times.iter().enumerate().map(|(at, time)| shown(100 - at as u64, *time, false)).collect();
        let rules = [Rule { expire_noncurrent: Some((1, 29)), ..rule() }];
        let keeping = |pinned: &[u64]| Keeping {
            spacing_ms: Some(25),
            pinned: pinned.iter().map(|id| VersionId(*id)).collect(),
        };
        let gone = |keeping: &Keeping, now: u64| -> Vec<u64> {
            let removed = |action: Action| match action {
                Action::Remove(_, id) => Some(id.0),
                Action::Expire | Action::Uncover(..) => None,
            };
            actions(&rules, keeping, &history, now, DAY).into_iter().filter_map(removed).collect()
        };
        assert_eq!(gone(&keeping(&[]), 2999), [0; 0], "nothing is a day old");
        assert_eq!(gone(&keeping(&[]), 99_000), [98, 97, 95, 94]);
        // What has a name stays, and others are held against it.
        assert_eq!(gone(&keeping(&[95]), 99_000), [97, 96, 94]);
        // As often as it is looked at again.
        let left: Vec<_> = history
            .iter()
            .filter(|version| !gone(&keeping(&[]), 99_000).contains(&version.id.0))
            .cloned()
            .collect();
        assert_eq!(actions(&rules, &keeping(&[]), &left, 99_000, DAY), []);
    }

    #[test]
    fn a_marker_goes_when_nothing_is_under_it() {
        let alone = [shown(2, 5000, true)];
        let rules = [Rule { expire_markers: true, ..rule() }];
        assert_eq!(actions(&rules, &Keeping::default(), &alone, 5000, DAY), [marker(2)]);
        let over_one = [shown(2, 5000, true), shown(1, 1000, false)];
        assert_eq!(actions(&rules, &Keeping::default(), &over_one, 99_000, DAY), []);
        let both = [Rule { expire_noncurrent: Some((1, 0)), ..rules[0].clone() }];
        assert_eq!(
            actions(&both, &Keeping::default(), &over_one, 6000, DAY),
            [id(1)],
            "it may be held: the marker waits"
        );
        let by_age = [Rule { expire: Some(When::Days(1)), ..rule() }];
        assert_eq!(actions(&by_age, &Keeping::default(), &alone, 5999, DAY), []);
        assert_eq!(actions(&by_age, &Keeping::default(), &alone, 6000, DAY), [marker(2)]);
    }

    #[test]
    fn uploads_are_given_up_by_prefix_and_age() {
        let rules = [Rule { abort_uploads: Some(2), ..rule() }];
        assert!(!gives_up(&rules, b"logs/x", 1000, 2999, DAY));
        assert!(gives_up(&rules, b"logs/x", 1000, 3000, DAY));
        assert!(!gives_up(&rules, b"x", 1000, 3000, DAY));
    }
}
