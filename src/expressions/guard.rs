//! Turns a panic inside VRL into an error of the record or the file, so that it does not end the process.
//!
//! Wraps the compiler and the interpreter, which are foreign code and read input that anyone may send. The program's
//! panic hook, which ends the process, ignores such a panic.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is running VRL.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`.
///
/// # Errors
/// It panicked: the panic's message.
pub(super) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let outside = take_hook();
        set_hook(Box::new(move |panic| {
            if !INSIDE.get() {
                outside(panic);
            }
        }));
    });
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    INSIDE.set(before);
    result.map_err(|panic| words(&*panic))
}

/// Stack size of the compiler's thread. VRL recurses with the nesting of the text, tens of kilobytes per level.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Runs `f` on a thread whose stack suffices for the deepest expression that `measure` admits.
///
/// # Errors
/// It panicked, or the thread could not be started.
pub(super) fn deep<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let compiler = std::thread::Builder::new().name("expressions".into()).stack_size(STACK_BYTES);
        let running = compiler.spawn_scoped(scope, || caught(f)).map_err(|e| e.to_string())?;
        running.join().unwrap_or_else(|panic| Err(words(&*panic)))
    })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        assert_eq!(caught(|| 7), Ok(7));
        let n = std::hint::black_box(3);
        assert_eq!(caught(|| assert!(n == 4, "three is not {}", 4)), Err("three is not 4".into()));
        assert_eq!(caught(|| assert!(n == 4, "never")), Err("never".into()));
        assert!(!INSIDE.get());
    }

    #[test]
    fn every_profile_unwinds() {
        assert!(!include_str!("../../Cargo.toml").contains("panic ="), "a panic could not be caught");
    }
}
