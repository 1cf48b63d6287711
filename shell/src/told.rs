//! Failures as a person is told of them: every cause on one line, and what can be done about it
//! where the operating system's reason tells.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// An error with its causes on one line, and the remedy if one is known.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut remedy = remedy_of(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // A cause that its parent already quotes is not said twice.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        remedy = remedy.or_else(|| remedy_of(cause));
        source = cause.source();
    }
    if let Some(remedy) = remedy {
        text.push_str("; ");
        text.push_str(remedy);
    }
    text.replace('\n', " ")
}

fn remedy_of(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let shared = || error.downcast_ref::<Arc<io::Error>>().map(Arc::as_ref);
    let io = error.downcast_ref::<io::Error>().or_else(shared)?;
    remedy(io.kind())
}

/// What a person can do about a file that could not be used.
pub fn remedy(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free space there or give the node a larger disk, then start it again"
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "let the node's user write there, or give the node another directory"
        }
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            "something else has that name: move it away, or give the node another directory"
        }
        ErrorKind::NotFound => "make that place, or give the node another directory",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(Arc<io::Error>);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("could not write /data/x")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_full_disk_is_told_with_its_file_and_what_to_do() {
        let full = Outer(Arc::new(ErrorKind::StorageFull.into()));
        assert_eq!(
            told(&full),
            "could not write /data/x: no storage space; free space there or give the node a \
             larger disk, then start it again"
        );
    }

    #[test]
    fn nothing_is_advised_where_nothing_is_known() {
        let odd = io::Error::other("strange\nthings");
        assert_eq!(told(&odd), "strange things");
    }
}
