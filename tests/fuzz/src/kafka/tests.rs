//! The codec of the project understands what another one writes, and says what another one reads, in every version of every API
//! that is served.

use proptest::collection::vec;
use proptest::prelude::*;

use super::answers;
use super::made::Source;
use super::pairs::served;

#[test]
fn one_of_everything_is_understood_as_another_codec_wrote_it() {
    let all = served();
    assert!(all.len() > 100, "{}", all.len());
    for (pair, version) in all {
        let made = pair.make(version, Source::of(&[])).expect("one of everything is a request");
        pair.agree(version, &made);
    }
}

#[test]
fn one_of_everything_is_answered_as_another_codec_reads_it() {
    let all = answers::served();
    assert_eq!(all.len(), served().len());
    for (answer, version) in all {
        let made = answer.make(version, Source::of(&[])).expect("one of everything is an answer");
        answer.agree(version, &made);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_another_codec_writes_is_understood_the_same(choices in vec(any::<u8>(), 1..400)) {
        for (pair, version) in served() {
            // Not all that is chosen is a request: then less is, and at last one of everything.
            let less = |from| pair.make(version, Source::of(&choices[from..]));
            let made = (0..=choices.len()).find_map(less).expect("one of everything is a request");
            pair.agree(version, &made);
        }
    }

    #[test]
    fn whatever_is_answered_is_read_by_another_codec_as_it_was_meant(choices in vec(any::<u8>(), 1..400)) {
        for (answer, version) in answers::served() {
            let less = |from| answer.make(version, Source::of(&choices[from..]));
            let made = (0..=choices.len()).find_map(less).expect("one of everything is an answer");
            answer.agree(version, &made);
        }
    }
}
