//! One public key of an issuer (RFC 7517, 7518 §6, 8037), and what it can verify.

use crate::config::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use smol_str::SmolStr;

/// The members that are read. Two of the same name make the whole set invalid.
#[derive(Debug, Deserialize)]
pub(super) struct Raw {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// A private or symmetric key in a public set is a mistake that must not be used.
    d: Option<serde::de::IgnoredAny>,
    k: Option<serde::de::IgnoredAny>,
}

/// A key that can verify tokens.
#[derive(Debug, Clone)]
pub(super) struct Jwk {
    pub(super) kid: Option<SmolStr>,
    /// The one algorithm that the issuer allows for it.
    alg: Option<Algorithm>,
    key: Key,
}

#[derive(Debug, Clone)]
enum Key {
    Rsa { n: Box<[u8]>, e: Box<[u8]> },
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

impl Jwk {
    /// `None` for a key that is none of ours: for encryption, of another kind, of an algorithm that is
    /// not known, or not whole.
    pub(super) fn read(raw: Raw) -> Option<Self> {
        if raw.d.is_some() || raw.k.is_some() {
            return None;
        }
        let signs = raw
            .purpose
            .as_deref()
            .is_none_or(|purpose| purpose == "sig")
            && raw
                .key_ops
                .as_ref()
                .is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let alg = match raw.alg.as_deref() {
            None => None,
            Some(name) => Some(algorithm(name)?),
        };
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes(&raw.x)?, bytes(&raw.y)?);
            // RFC 7518 §6.2.1.2: the full size of a coordinate, leading zeros and all.
            (x.len() == size && y.len() == size).then(|| [&[4], &*x, &*y].concat().into())
        };
        let key = match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => Key::Rsa {
                n: stripped(bytes(&raw.n)?),
                e: stripped(bytes(&raw.e)?),
            },
            ("EC", Some("P-256")) => Key::P256(point(32)?),
            ("EC", Some("P-384")) => Key::P384(point(48)?),
            ("OKP", Some("Ed25519")) => {
                Key::Ed25519(bytes(&raw.x).filter(|x| x.len() == 32)?.into())
            }
            _ => return None,
        };
        let read = Self {
            kid: raw.kid.map(Into::into),
            alg,
            key,
        };
        let fits = alg.is_none_or(|alg| read.verifies(alg));
        (signs && fits).then_some(read)
    }

    /// True when the key is of the kind that `algorithm` needs, and the issuer allows it.
    pub(super) fn verifies(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let kind = match self.key {
            Key::Rsa { .. } => matches!(
                algorithm,
                A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512
            ),
            Key::P256(_) => algorithm == A::ES256,
            Key::P384(_) => algorithm == A::ES384,
            Key::Ed25519(_) => algorithm == A::EdDsa,
        };
        kind && self.alg.is_none_or(|only| only == algorithm)
    }

    /// True when `sign` signs `message`. RSA keys below 2048 and above 8192 bits verify nothing.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], sign: &[u8]) -> bool {
        let with = |how: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(how, key)
                .verify(message, sign)
                .is_ok()
        };
        if !self.verifies(algorithm) {
            return false;
        }
        match &self.key {
            Key::P256(key) => with(&ECDSA_P256_SHA256_FIXED, key),
            Key::P384(key) => with(&ECDSA_P384_SHA384_FIXED, key),
            Key::Ed25519(key) => with(&ED25519, key),
            Key::Rsa { n, e } => rsa(algorithm).is_some_and(|how| {
                RsaPublicKeyComponents { n, e }
                    .verify(how, message, sign)
                    .is_ok()
            }),
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static signature::RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 | Algorithm::ES384 | Algorithm::EdDsa => return None,
    })
}

/// The algorithm of a header or key: `None` for `none`, for every symmetric one, and for what is not known.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    <Algorithm as crate::config::Word>::from_word(name)
}

/// ring wants numbers without leading zeros; some issuers write one.
fn stripped(bytes: Vec<u8>) -> Box<[u8]> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default().into()
}
