//! How much looking in vain a line may cost.

/// Bytes that failed attempts may still look at.
///
/// Real text stays far below; past it, what starts like a credential is taken for one without a closer
/// look, so that a line made to be slow costs its sender precision and nobody time.
#[derive(Debug)]
pub(super) struct Fuel(usize);

impl Fuel {
    /// For one search of `bytes`: each byte may be looked at so many `times`.
    pub(super) fn of(bytes: &[u8], times: usize) -> Self {
        Self(bytes.len().saturating_mul(times).saturating_add(64 << 10))
    }

    /// An attempt looked at so many bytes and found nothing.
    pub(super) fn burn(&mut self, bytes: usize) {
        self.0 = self.0.saturating_sub(bytes);
    }

    pub(super) fn is_out(&self) -> bool {
        self.0 == 0
    }
}
