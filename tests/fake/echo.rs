//! A fast correct server: `echo`, `blob`, every era.

#[path = "support/echo.rs"]
mod echo;
#[path = "support/text.rs"]
mod text;

fn main() -> std::io::Result<()> {
    echo::serve()
}
