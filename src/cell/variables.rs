//! The server's variables while the launcher divides itself: the process that becomes the server takes
//! them back, those that only watch over it wipe them, because credentials may be among them.

use std::sync::{Mutex, PoisonError};
use zeroize::Zeroize;

type Variables = Vec<(String, String)>;

static ASIDE: Mutex<Variables> = Mutex::new(Vec::new());

/// Keeps them for whichever side this process will be.
pub(super) fn set_aside(variables: &mut Variables) {
    let mut aside = ASIDE.lock().unwrap_or_else(PoisonError::into_inner);
    *aside = std::mem::take(variables);
}

/// This process becomes the server.
pub(super) fn take_back() -> Variables {
    std::mem::take(&mut *ASIDE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// This process only watches.
pub(super) fn forget() {
    wipe(&mut ASIDE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Overwrites the values.
pub(super) fn wipe(variables: &mut Variables) {
    variables.iter_mut().for_each(|(_, value)| value.zeroize());
    variables.clear();
}
