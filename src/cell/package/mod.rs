//! Packages run by `npx`, `uvx` and `pipx run`: installed first, sealed, checked at every start.
