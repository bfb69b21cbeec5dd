//! A peer's identity: its ed25519 key, kept on the Raft volume, and the secret of the cluster.
//!
//! Invariants: an identity file is never replaced, whatever it contains, because a node ID must never
//! return with another disk's log; it is on disk before the ID is used. The secret and the private key
//! never reach a log or an error.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use libp2p::identity::Keypair;
use sha2::{Digest as _, Sha256};

use crate::{files, types::PeerId};

/// Name of the file in the data folder.
pub const IDENTITY_FILE: &str = "identity";

/// Start of an identity file with the version of its format: `pinkeeper-identity 1 <private key: 64
/// hex> <CRC-32 of the key: 8 hex>`.
const HEADER: &str = "pinkeeper-identity 1";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its folder cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file exists but is not a valid identity.
    #[error(
        "the identity file {} is damaged ({reason}); restore it from a backup, or move the whole \
         folder away so that the peer starts anew and joins as another one",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A peer's key pair.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    id: PeerId,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads the identity of `folder`, or creates one if there is none. The folder must exist.
    ///
    /// # Errors
    /// When the file cannot be read or created, or is damaged. A damaged file is left unchanged.
    pub fn load_or_create(folder: &Path) -> Result<Self, IdentityError> {
        match Self::load(folder)? {
            Some(identity) => Ok(identity),
            None => create(folder),
        }
    }

    /// Reads the identity of `folder`; none if there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn load(folder: &Path) -> Result<Option<Self>, IdentityError> {
        let path = folder.join(IDENTITY_FILE);
        let bytes = match files::read(&path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { action: "read", path, source }),
        };
        let text = str::from_utf8(&bytes).map_err(|_| "it is not text");
        match text.and_then(parse) {
            Ok(key) => Ok(Some(Self::from_key(key))),
            Err(reason) => Err(IdentityError::Damaged { path, reason }),
        }
    }

    /// Creates the identity of a private key.
    #[must_use]
    pub fn from_key(mut key: [u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "any 32 bytes are an ed25519 private key")]
        let keypair = Keypair::ed25519_from_bytes(&mut key).expect("32 bytes");
        let id = id_of(&keypair);
        Self { keypair, id }
    }

    /// The peer's ID.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The key pair for libp2p.
    #[must_use]
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

fn id_of(keypair: &Keypair) -> PeerId {
    #[expect(clippy::expect_used, reason = "every key pair here is made as an ed25519 one")]
    let key = keypair.public().try_into_ed25519().expect("ed25519");
    PeerId(key.to_bytes())
}

/// Parses the private key in an identity file.
pub(crate) fn parse(text: &str) -> Result<[u8; 32], &'static str> {
    let rest = text.strip_prefix(HEADER).ok_or("it does not begin with its header")?;
    let mut words = rest.split_ascii_whitespace();
    let (Some(key), Some(sum), None) = (words.next(), words.next(), words.next()) else {
        return Err("it is truncated or too long");
    };
    let mut bytes = [0; 32];
    hex::decode_to_slice(key, &mut bytes).map_err(|_| "its key is not 64 hex characters")?;
    if sum == format!("{:08x}", crc32fast::hash(&bytes)) {
        Ok(bytes)
    } else {
        Err("its checksum does not match")
    }
}

/// Creates an identity: writes and syncs it under another name, then links it to its own name. The link
/// fails if another process was faster, instead of replacing its file.
fn create(folder: &Path) -> Result<Identity, IdentityError> {
    let path = folder.join(IDENTITY_FILE);
    let unfinished = folder.join(format!("{IDENTITY_FILE}.{}", std::process::id()));
    let io_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::Io { action, path, source }
    };
    #[expect(clippy::expect_used, reason = "it was just made as an ed25519 key")]
    let key = Keypair::generate_ed25519().try_into_ed25519().expect("ed25519");
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.secret().as_ref());
    let line = format!("{HEADER} {} {:08x}\n", hex::encode(bytes), crc32fast::hash(&bytes));

    let mut file = files::create_anew(&unfinished).map_err(io_error("create", &unfinished))?;
    file.write_all(line.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io_error("write", &unfinished))?;
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished).map_err(io_error("remove", &unfinished))?;
    match linked {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("create", &path)(source));
        }
        _ => {}
    }
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync", folder))?;
    // The file on disk counts, even if it is another process' identity.
    Identity::load(folder)?.ok_or_else(|| {
        io_error("read", &path)(io::Error::new(io::ErrorKind::NotFound, "it vanished"))
    })
}

/// Shortest run of hex digits that may be a secret, or part of a mistyped one.
const SECRET_DIGITS_MIN: usize = 32;

/// The text with anything hidden that may be a secret.
#[must_use]
pub fn concealed(text: &str) -> String {
    let is_digit = |c: char| c.is_ascii_hexdigit();
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_digit) {
        let (before, digits) = rest.split_at(start);
        let (digits, after) =
            digits.split_at(digits.find(|c| !is_digit(c)).unwrap_or(digits.len()));
        shown.push_str(before);
        shown.push_str(if digits.len() < SECRET_DIGITS_MIN { digits } else { "(hidden)" });
        rest = after;
    }
    shown + rest
}

/// The cluster secret: its holders may connect. 32 bytes, written as 64 hex characters, as in IPFS
/// Cluster.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; 32]);

/// Why a cluster secret cannot be used. Never contains the file's contents.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It cannot be read.
    #[error("cannot read the cluster secret {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It contains something else.
    #[error("the cluster secret {} must be 64 hex characters, {found}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the contents.
        found: String,
    },
}

impl ClusterSecret {
    /// Reads a file with 64 hex characters; white space around them is ignored.
    ///
    /// # Errors
    /// When it cannot be read or contains something else.
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let bytes = fs::read(path).map_err(|source| {
            // The path itself may be a secret that was set by mistake.
            SecretError::Unreadable { path: concealed(&path.to_string_lossy()).into(), source }
        })?;
        let text = bytes.trim_ascii();
        let malformed = |found: String| SecretError::Malformed { path: path.to_owned(), found };
        if text.len() != 64 {
            return Err(malformed(format!("but it has {}", text.len())));
        }
        let mut secret = [0; 32];
        hex::decode_to_slice(text, &mut secret)
            .map_err(|_| malformed("but it has other characters".to_owned()))?;
        Ok(Self(secret))
    }

    /// A secret of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the handshake.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight hex characters that distinguish secrets and may be logged.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(&Sha256::digest(self.0)[..4])
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret(fingerprint {})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::sim::damage;

    #[test]
    fn the_second_start_is_the_same_peer_and_the_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(folder.path()).unwrap();
        let second = Identity::load_or_create(folder.path()).unwrap();
        assert_eq!(first.id(), second.id());
        let file = folder.path().join(IDENTITY_FILE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(
            first.id().to_bytes().to_vec(),
            first.keypair().public().to_peer_id().to_bytes()
        );
    }

    #[test]
    fn a_file_damaged_anywhere_is_the_same_peer_or_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        Identity::load_or_create(folder.path()).unwrap();
        let file = folder.path().join(IDENTITY_FILE);
        let whole = fs::read(&file).unwrap();
        let id = Identity::load(folder.path()).unwrap().unwrap().id();
        let check = |what: &str, bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            match Identity::load_or_create(folder.path()) {
                // White space, or the case of a hex digit.
                Ok(identity) => assert_eq!(identity.id(), id, "{what}"),
                Err(error) => {
                    assert!(matches!(error, IdentityError::Damaged { .. }), "{what}: {error}");
                    assert!(error.to_string().contains("backup"), "{error}");
                }
            }
            assert_eq!(fs::read(&file).unwrap(), bytes);
        };
        damage::each(&whole, usize::MAX, 1, check);
        fs::write(&file, vec![0xff; 100]).unwrap();
        let error = Identity::load_or_create(folder.path()).unwrap_err();
        assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = Identity::load_or_create(&folder.path().join("absent")).unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }

    #[test]
    fn the_secret_is_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        fs::write(&path, format!("{hex}\n")).unwrap();
        let secret = ClusterSecret::from_file(&path).unwrap();
        assert_eq!(secret.as_bytes()[1], 0x11);
        assert_eq!(secret.fingerprint().len(), 8);
        assert!(!format!("{secret:?}").contains("112233"));

        for bad in [&hex[1..], "", &format!("{hex}00"), &hex.replace('a', "x")] {
            fs::write(&path, bad).unwrap();
            let error = ClusterSecret::from_file(&path).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("64 hex") || shown.contains("Malformed"), "{shown}");
            assert!(!shown.contains("112233"), "{shown}");
        }
        let error = ClusterSecret::from_file(&folder.path().join("none")).unwrap_err();
        assert!(matches!(error, SecretError::Unreadable { .. }), "{error}");
        let error = ClusterSecret::from_file(&folder.path().join(hex)).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("/(hidden)") && !shown.contains("112233"), "{shown}");
    }

    #[test]
    fn a_linked_identity_is_not_read() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        Identity::load_or_create(other.path()).unwrap();
        let (file, target) = (folder.path().join(IDENTITY_FILE), other.path().join(IDENTITY_FILE));
        std::os::unix::fs::symlink(target, file).unwrap();
        let error = Identity::load_or_create(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is a link"), "{error}");
    }
}
