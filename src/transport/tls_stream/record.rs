//! Protected records: TLS 1.3 (RFC 8446 §5.2) and the AEAD suites of TLS 1.2 (RFC 5246 §6.2.3.3).
//!
//! ```text
//! TLS 1.3     23:1 || 0x0303 || length:2 ||            AEAD(content || type:1 || zeros)     AAD = header
//! TLS 1.2   type:1 || 0x0303 || length:2 || nonce:0/8 || AEAD(content)      AAD = seq:8 || header, its
//!                                                                             length that of the content
//! ```
//!
//! Each is opened and sealed out of place, so a byte is touched once on its way between the caller's
//! buffer and the socket's.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved, ProtocolVersion};
use zeroize::Zeroizing;

/// The longest content of a record (RFC 8446 §5.1).
pub(super) const CONTENT_MAX: usize = 1 << 14;

/// Type, version, length.
pub(super) const HEADER: usize = 5;

/// What a record has at most beside its content, in those that are sent here: TLS 1.2 with AES-GCM.
pub(super) const OVERHEAD_MAX: usize = HEADER + EXPLICIT_NONCE + TAG;

/// The longest record, with its header (RFC 8446 §5.2). TLS 1.2 allows more, and the suites spoken here
/// make less of it.
pub(super) const RECORD_MAX: usize = HEADER + BODY_MAX;

const BODY_MAX: usize = CONTENT_MAX + 256;
const TAG: usize = 16;
/// TLS 1.2 sends half of an AES-GCM nonce with each record (RFC 5288 §3).
const EXPLICIT_NONCE: usize = 8;
const NONCE: usize = 12;
/// Also `legacy_record_version` of TLS 1.3.
const VERSION: [u8; 2] = [3, 3];

/// How a record is laid out around its ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Tls13,
    Tls12Gcm,
    Tls12ChaCha,
}

impl Layout {
    /// What stands before the ciphertext.
    fn explicit_nonce(self) -> usize {
        if self == Self::Tls12Gcm { EXPLICIT_NONCE } else { 0 }
    }

    /// What is encrypted behind the content.
    fn inner_type(self) -> usize {
        if self == Self::Tls13 { 1 } else { 0 }
    }

    fn overhead(self) -> usize {
        HEADER + self.explicit_nonce() + self.inner_type() + TAG
    }
}

/// One direction's key, and how many records it has protected.
struct Protection {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE]>,
    sequence: u64,
    layout: Layout,
}

impl Protection {
    fn new(
        version: ProtocolVersion,
        sequence: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher suite that is not spoken here".to_owned())),
        };
        let layout = match version {
            ProtocolVersion::TLSv1_3 => Layout::Tls13,
            ProtocolVersion::TLSv1_2 if algorithm == &CHACHA20_POLY1305 => Layout::Tls12ChaCha,
            ProtocolVersion::TLSv1_2 => Layout::Tls12Gcm,
            _ => return Err(Error::General("a version of TLS that is not spoken here".to_owned())),
        };
        let broken = |()| Error::General("a key of the wrong length".to_owned());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| broken(()))?;
        let mut own_iv = Zeroizing::new([0; NONCE]);
        let iv = iv.as_ref().first_chunk::<NONCE>().ok_or(()).map_err(broken)?;
        own_iv.copy_from_slice(iv);
        Ok(Self { key: LessSafeKey::new(key), iv: own_iv, sequence, layout })
    }

    /// `iv XOR sequence` (RFC 8446 §5.3; RFC 7905 §2): never the same twice, as the sequence is not.
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = *self.iv;
        for (byte, of_sequence) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        nonce
    }

    /// What is authenticated beside the ciphertext.
    fn aad(&self, header: [u8; HEADER], content: usize) -> Aad<AadBytes> {
        let mut aad = AadBytes { bytes: [0; 8 + HEADER], start: 8 };
        aad.bytes[8..].copy_from_slice(&header);
        if self.layout != Layout::Tls13 {
            aad.bytes[..8].copy_from_slice(&self.sequence.to_be_bytes());
            // Within 16 bits, as no record is longer.
            aad.bytes[8 + 3..].copy_from_slice(&(content as u16).to_be_bytes());
            aad.start = 0;
        }
        Aad::from(aad)
    }

    fn advance(&mut self) -> Result<(), Error> {
        self.sequence = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(())
    }
}

struct AadBytes {
    bytes: [u8; 8 + HEADER],
    start: usize,
}

impl AsRef<[u8]> for AadBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Protects what is sent.
pub(super) struct Sealer {
    protection: Protection,
    version: ProtocolVersion,
    /// How many records may be sealed with one key.
    limit: u64,
}

impl Sealer {
    /// Begins with the number that follows the handshake's. One key seals at most `limit` records.
    pub(super) fn new(
        version: ProtocolVersion,
        secrets: &(u64, ConnectionTrafficSecrets),
        limit: u64,
    ) -> Result<Self, Error> {
        Ok(Self { protection: Protection::new(version, secrets.0, &secrets.1)?, version, limit })
    }

    /// Goes on with another key.
    pub(super) fn rekey(&mut self, secrets: &(u64, ConnectionTrafficSecrets)) -> Result<(), Error> {
        self.protection = Protection::new(self.version, secrets.0, &secrets.1)?;
        Ok(())
    }

    /// Whether the key has but one record left, which must say that there is another key or an end.
    pub(super) fn is_spent(&self) -> bool {
        self.protection.sequence >= self.limit.saturating_sub(1)
    }

    #[cfg(test)]
    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    #[cfg(test)]
    pub(super) fn sequence(&self) -> u64 {
        self.protection.sequence
    }

    /// Whether its keys can be changed.
    pub(super) fn can_rekey(&self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }

    /// What a record adds to its content.
    pub(super) fn overhead(&self) -> usize {
        self.protection.layout.overhead()
    }

    /// Makes one record of `content`, at most [`CONTENT_MAX`] bytes, in `record`: [`Self::overhead`]
    /// bytes longer.
    pub(super) fn seal(&mut self, kind: ContentType, content: &[u8], record: &mut [u8]) -> Result<(), Error> {
        let protection = &mut self.protection;
        let layout = protection.layout;
        let body = layout.overhead() - HEADER + content.len();
        // `seal_out_of_place_scatter` looks at the lengths of its parts.
        let (header, rest) = record.split_first_chunk_mut::<HEADER>().ok_or(Error::EncryptError)?;
        let (explicit, rest) =
            rest.split_at_mut_checked(layout.explicit_nonce()).ok_or(Error::EncryptError)?;
        let (ciphertext, tail) = rest.split_at_mut_checked(content.len()).ok_or(Error::EncryptError)?;

        let (outer, inner) = match layout {
            Layout::Tls13 => (ContentType::ApplicationData, &[u8::from(kind)][..]),
            _ => (kind, &[][..]),
        };
        let [high, low] = u16::try_from(body).map_err(|_| Error::EncryptError)?.to_be_bytes();
        *header = [u8::from(outer), VERSION[0], VERSION[1], high, low];
        let nonce = protection.nonce();
        explicit.copy_from_slice(&nonce[NONCE - explicit.len()..]);
        let aad = protection.aad(*header, content.len());
        // Before it is used: whatever happens, it is not used again.
        protection.advance()?;
        protection
            .key
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                aad,
                content,
                ciphertext,
                inner,
                tail,
            )
            .map_err(|_| Error::EncryptError)
    }
}

/// Opens what is received.
pub(super) struct Opener {
    protection: Protection,
    version: ProtocolVersion,
}

impl Opener {
    /// Begins with the number that follows the handshake's.
    pub(super) fn new(
        version: ProtocolVersion,
        secrets: &(u64, ConnectionTrafficSecrets),
    ) -> Result<Self, Error> {
        Ok(Self { protection: Protection::new(version, secrets.0, &secrets.1)?, version })
    }

    /// Goes on with another key.
    pub(super) fn rekey(&mut self, secrets: &(u64, ConnectionTrafficSecrets)) -> Result<(), Error> {
        *self = Self::new(self.version, secrets)?;
        Ok(())
    }

    /// Whether this is TLS 1.3.
    pub(super) fn is_tls13(&self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }

    /// How much a whole record needs to be opened: its content and what hides behind that. Those that
    /// are not protected are refused.
    pub(super) fn room(&self, record: &[u8]) -> Result<usize, Error> {
        let layout = self.protection.layout;
        let outer = record.first().map_or(ContentType::Unknown(0), |&kind| kind.into());
        if layout == Layout::Tls13 && outer != ContentType::ApplicationData {
            return Err(unexpected(outer));
        }
        let around = HEADER + layout.explicit_nonce() + TAG;
        record.len().checked_sub(around).ok_or(Error::DecryptError)
    }

    /// Opens a whole record into `room`, which is as long as [`Self::room`] says: gives its type and the
    /// length of its content. Nothing of `room` has a meaning after an error, nor behind the content.
    pub(super) fn open(&mut self, record: &[u8], room: &mut [u8]) -> Result<(ContentType, usize), Error> {
        let protection = &mut self.protection;
        let layout = protection.layout;
        let (header, body) = record.split_first_chunk::<HEADER>().ok_or(Error::DecryptError)?;
        let outer = ContentType::from(header[0]);
        let (explicit, body) = body.split_at_checked(layout.explicit_nonce()).ok_or(Error::DecryptError)?;
        let (ciphertext, tag) = body.split_last_chunk::<TAG>().ok_or(Error::DecryptError)?;

        let mut nonce = protection.nonce();
        nonce[NONCE - explicit.len()..].copy_from_slice(explicit);
        let aad = protection.aad(*header, ciphertext.len());
        protection
            .key
            .open_separate_gather(Nonce::assume_unique_for_key(nonce), aad, ciphertext, tag, room)
            .map_err(|_| Error::DecryptError)?;
        protection.advance()?;

        if room.len() > CONTENT_MAX + layout.inner_type() {
            return Err(Error::PeerSentOversizedRecord);
        }
        if layout != Layout::Tls13 {
            return Ok((outer, room.len()));
        }
        let content = room.iter().rposition(|&byte| byte != 0);
        let content = content.ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        Ok((ContentType::from(room[content]), content))
    }
}

/// The first record of `input` if it is there as a whole. What its header says is looked at as soon as
/// that is there.
pub(super) fn first(input: &[u8]) -> Result<Option<&[u8]>, Error> {
    let Some(&[kind, major, _, high, low]) = input.first_chunk::<HEADER>() else { return Ok(None) };
    if !(20..=23).contains(&kind) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if major != VERSION[0] {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    if body > BODY_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok(input.get(..HEADER + body))
}

/// How long the first record of `input` is, with its header; none while that is not there.
pub(super) fn first_length(input: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low] = input.first_chunk::<HEADER>()?;
    Some(HEADER + usize::from(u16::from_be_bytes([high, low])))
}

/// A record that has no place after the handshake.
pub(super) fn unexpected(kind: ContentType) -> Error {
    Error::InappropriateMessage { expect_types: vec![ContentType::ApplicationData], got_type: kind }
}
