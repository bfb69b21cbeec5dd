//! One line for an error with its causes.

use std::error::Error;

/// The error's text, then the text of each cause that is not part of it already: the text of many
/// libraries' errors is that of the outermost alone, and that of others repeats the causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    #[test]
    fn causes_follow_unless_they_are_repeated() {
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        let lowest = || layer("connection refused", None);
        let outer = layer("cannot ask", Some(layer("tcp", Some(lowest()))));
        assert_eq!(with_causes(&outer), "cannot ask: tcp: connection refused");
        let repeats = layer("cannot ask: connection refused", Some(lowest()));
        assert_eq!(with_causes(&repeats), "cannot ask: connection refused");
        assert_eq!(with_causes(&lowest()), "connection refused");
    }
}
