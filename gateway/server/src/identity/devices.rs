//! Passwords of users, and the devices that sync their files: each has a secret of its own, of which only a hash is kept.

use super::{
    IdentityError, User,
    change::{change, invalid, random_text, read, write},
};
use argon2::{
    Argon2, PasswordHash, PasswordHasher, PasswordVerifier,
    password_hash::{SaltString, rand_core::OsRng},
};
use holdfast_meta_raft_server::Meta;
use serde::{Deserialize, Serialize};

/// The shortest password. Guessing is slowed by argon2, and by there being few guesses at a time.
pub const PASSWORD_MIN: usize = 8;
const PASSWORD_MAX: usize = 256;

/// Devices of one user.
const DEVICES_MAX: usize = 100;

/// Bytes of a device's name.
const NAME_MAX: usize = 64;

/// How long a pairing code is good for, in seconds.
pub const CODE_SECONDS: u32 = 15 * 60;

/// How long after a code the next one may be made, in milliseconds.
const CODE_PAUSE_MS: u64 = 2000;

/// What codes are made of: nothing that is read as something else. Ten of them are some fifty bits, which a thousand guesses
/// a second do not find in a quarter of an hour.
const CODE_LETTERS: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
const CODE_LENGTH: usize = 10;

/// A pairing code as the metadata keeps it. A user has one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    hash: String,
    until_ms: u64,
}

/// A device as the metadata keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: String,
    pub name: String,
    /// BLAKE3 of its secret, in hexadecimal digits.
    secret_hash: String,
    pub paired_ms: u64,
}

impl Device {
    /// Whether a secret is the device's. It takes as long whatever the answer.
    pub fn has(&self, secret: &[u8]) -> bool {
        blake3::Hash::from_hex(&self.secret_hash).is_ok_and(|hash| hash == blake3::hash(secret))
    }
}

fn key_of(user: &str, id: &str) -> String {
    format!("device/{user}/{id}")
}

/// Hashes a password (argon2id with the crate's parameters; RFC 9106).
///
/// # Errors
/// Where it is too short or too long.
pub fn hash(password: &str) -> Result<String, IdentityError> {
    if !(PASSWORD_MIN..=PASSWORD_MAX).contains(&password.len()) {
        return invalid(format!("a password has {PASSWORD_MIN} to {PASSWORD_MAX} bytes"));
    }
    let salt = SaltString::generate(&mut OsRng);
    let hashed = Argon2::default().hash_password(password.as_bytes(), &salt);
    Ok(hashed.map_err(|error| IdentityError::Invalid(error.to_string()))?.to_string())
}

/// Whether a password is the one that was hashed.
pub fn verify_hash(kept: &str, password: &str) -> bool {
    let parsed = PasswordHash::new(kept);
    parsed.is_ok_and(|parsed| Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok())
}

/// Whether a password is the user's. It takes as long for a user that has none, or is not there.
pub fn verify(user: Option<&User>, password: &str) -> bool {
    // Of a password that nobody has.
    const NOBODYS: &str = "$argon2id$v=19$m=19456,t=2,p=1$aG9sZGZhc3Qtbm9ib2R5$\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let kept = user.and_then(|user| user.password.as_deref());
    let same = verify_hash(kept.unwrap_or(NOBODYS), password);
    same && kept.is_some() && user.is_some_and(|user| !user.disabled)
}

/// A code as it is compared: however it was typed.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_uppercase()).collect()
}

/// Makes a code by which one device can be paired, for [`CODE_SECONDS`]. The one before is good no longer.
///
/// # Errors
/// As [`pair`].
pub async fn make_code(meta: &Meta, user: &str, now_ms: u64) -> Result<String, IdentityError> {
    let code = random_text(CODE_LETTERS, CODE_LENGTH);
    let plain = code.clone();
    let hashed = tokio::task::spawn_blocking(move || hash(&plain)).await;
    let hash = hashed.map_err(|error| IdentityError::Invalid(error.to_string()))??;
    let until_ms = now_ms + u64::from(CODE_SECONDS) * 1000;
    let kept = Code { hash, until_ms };
    change(meta, |records| {
        let _user: User = read(records, &format!("user/{user}"), "user")?;
        // Each change is one that all gateways read.
        let before =
            records.get(&format!("code/{user}")).and_then(|text| serde_json::from_str::<Code>(text).ok());
        if before.is_some_and(|before| before.until_ms + CODE_PAUSE_MS > until_ms) {
            return Err(IdentityError::Busy);
        }
        write(records, format!("code/{user}"), &kept)
    })
    .await?;
    let (first, last) = code.split_at(CODE_LENGTH / 2);
    Ok(format!("{first}-{last}"))
}

/// Whether a code is the user's, and good. It takes as long for a user that has none, or is not there.
pub fn verify_code(user: Option<&User>, code: Option<&Code>, given: &str, now_ms: u64) -> bool {
    // As of a user that has it for its password.
    let hash = code.filter(|code| now_ms < code.until_ms).map(|code| code.hash.clone());
    let stand_in =
        User { password: hash, disabled: user.is_none_or(|user| user.disabled), ..User::default() };
    verify(Some(&stand_in), &plain(given))
}

/// Makes a device one of a user's, and answers it with its secret. A code that it was paired by is good no longer.
///
/// # Errors
/// Where it is refused, or the metadata does not answer.
pub async fn pair(
    meta: &Meta,
    user: &str,
    name: &str,
    by: Option<&Code>,
    paired_ms: u64,
) -> Result<(Device, [u8; 32]), IdentityError> {
    if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return invalid(format!("a device's name has 1 to {NAME_MAX} bytes"));
    }
    let secret: [u8; 32] = rand::random();
    let id = random_text(super::change::ID_LETTERS, 16);
    let secret_hash = blake3::hash(&secret).to_hex().to_string();
    let device = Device { id, name: name.to_owned(), secret_hash, paired_ms };
    change(meta, |records| {
        let _user: User = read(records, &format!("user/{user}"), "user")?;
        if let Some(by) = by {
            let key = format!("code/{user}");
            // Somebody else may have been quicker with it.
            if read::<Code>(records, &key, "pairing code")? != *by {
                return Err(IdentityError::Unknown("pairing code"));
            }
            records.remove(&key);
        }
        let prefix = key_of(user, "");
        if records.keys().filter(|key| key.starts_with(&prefix)).count() >= DEVICES_MAX {
            return invalid(format!("a user has at most {DEVICES_MAX} devices: revoke one"));
        }
        write(records, key_of(user, &device.id), &device)
    })
    .await?;
    Ok((device, secret))
}

/// Has a device be nobody's.
///
/// # Errors
/// See [`pair`].
pub async fn revoke(meta: &Meta, user: &str, id: &str) -> Result<(), IdentityError> {
    change(meta, |records| {
        records.remove(&key_of(user, id)).map(drop).ok_or(IdentityError::Unknown("device"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_good_for_a_while_however_it_is_typed() {
        let user = User::default();
        let code = Code { hash: hash("ABCDE23456").expect("it is long enough"), until_ms: 1000 };
        let good = |given: &str, now_ms| verify_code(Some(&user), Some(&code), given, now_ms);
        assert!(good("ABCDE-23456", 999) && good("abcde 23456", 0));
        assert!(!good("ABCDE-23456", 1000), "it is late");
        assert!(!good("ABCDE-23457", 0) && !good("", 0));
        assert!(!verify_code(None, Some(&code), "ABCDE-23456", 0), "the user is gone");
        assert!(!verify_code(Some(&user), None, "", 0));
    }

    #[test]
    fn a_password_is_its_users_alone() {
        let user = |password: Option<String>, disabled| User { password, disabled, ..User::default() };
        let hashed = hash("correct horse").expect("it is long enough");
        assert!(verify(Some(&user(Some(hashed.clone()), false)), "correct horse"));
        assert!(!verify(Some(&user(Some(hashed.clone()), false)), "correct hors"));
        assert!(!verify(Some(&user(Some(hashed), true)), "correct horse"), "the user is disabled");
        assert!(!verify(Some(&user(None, false)), ""), "a user without a password has none that opens");
        assert!(!verify(None, "correct horse"));
        assert!(hash("short").is_err());
    }
}
