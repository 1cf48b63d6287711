//! What somebody who misspelt a name may have meant. Pure.

/// The known name that is nearest to what was typed, if it is near enough to be meant.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|name| (distance(typed, name), name));
    let (distance, name) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= typed.chars().count().div_ceil(4)).then_some(name)
}

/// How many characters must be put in, taken out or replaced to get from one text to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, from) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, to) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_taken_for_what_was_meant_and_another_word_for_nothing() {
        let known = ["retention.ms", "retention.bytes", "segment.ms"];
        assert_eq!(nearest("retension.ms", known), Some("retention.ms"));
        assert_eq!(nearest("retention.byte", known), Some("retention.bytes"));
        assert_eq!(nearest("flush.ms", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!((distance("kitten", "sitting"), distance("", "ab")), (3, 2));
    }
}
