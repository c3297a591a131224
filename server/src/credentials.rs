//! The first key pair: made at the first start, printed once, kept in a file that only its owner can read.

use holdfast_kv::durable;
use holdfast_meta_raft_archive::{ArchiveKey, RecoveryKey};
use holdfast_meta_raft_machine::records::Keyring;
use serde::{Deserialize, Serialize};
use std::{io, path::Path};

const FILE: &str = "credentials.toml";

/// Letters of an access key: upper case and digits, as AWS's are.
const ACCESS_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Letters of a secret key: 64, so that each is six bits.
const SECRET_LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    pub access_key: String,
    pub secret_key: String,
}

fn letters<const N: usize>(alphabet: &[u8; N], count: usize) -> String {
    // N divides 256, so that every letter is as likely.
    const { assert!(256 % N == 0) };
    (0..count).map(|_| char::from(alphabet[usize::from(rand::random::<u8>()) % N])).collect()
}

/// A new key pair.
pub fn make() -> Keys {
    let access_key = format!("HF{}", letters(ACCESS_LETTERS, 18));
    Keys { access_key, secret_key: letters(SECRET_LETTERS, 40) }
}

/// Reads the kept keys, or makes them; and whether they are new.
///
/// # Errors
/// Where the file is damaged or cannot be written.
pub fn load_or_make(data: &Path) -> io::Result<(Keys, bool)> {
    let path = data.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let keys = toml::from_str(&text).map_err(|_| {
                let text =
                    format!("{} is damaged: remove it to have new keys made, or give keys", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
            Ok((keys, false))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = make();
            let text = toml::to_string(&keys).map_err(io::Error::other)?;
            durable::replace(&path, text.as_bytes(), 0o600)?;
            Ok((keys, true))
        }
        Err(error) => Err(error),
    }
}

/// The operators' key to the metadata's archive, in a file of its own: whoever finds it and the devices has everything.
pub const RECOVERY_FILE: &str = "recovery.key";

/// Makes a recovery key in the file `path`, and the keyring that the cluster keeps of it.
///
/// # Errors
/// Where the file cannot be written.
pub fn make_recovery(path: &Path) -> io::Result<Keyring> {
    let recovery = RecoveryKey::new(rand::random());
    let archive = ArchiveKey::new(rand::random());
    durable::replace(path, format!("{recovery}\n").as_bytes(), 0o600)?;
    Ok(Keyring { wrapped: archive.wrap(&recovery, rand::random()), archive: *archive.as_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_kept_from_others() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (made, fresh) = load_or_make(dir.path()).expect("keys");
        let (kept, again) = load_or_make(dir.path()).expect("keys");
        assert!(fresh && !again);
        assert_eq!((&made.access_key, &made.secret_key), (&kept.access_key, &kept.secret_key));
        assert_eq!((made.access_key.len(), made.secret_key.len()), (20, 40));
        let mode = std::fs::metadata(dir.path().join(FILE)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(FILE), "nonsense").expect("a write");
        assert!(load_or_make(dir.path()).is_err());
    }
}
