//! Commands that stand on pages: whether the programs of this project take them.

use clap::Parser;
use clap::error::ErrorKind;

use super::markdown::Block;

/// The commands of a block: continued lines joined, remarks and prompts dropped, as words of a shell.
pub fn of(block: &Block) -> Vec<Vec<String>> {
    let text = block.text.replace("\\\n", " ");
    text.lines().map(words).filter(|words| !words.is_empty()).collect()
}

/// What is wrong with a command, if it is one of this project's (`cargo xtask ...`, or `mom-train ...` behind a launcher).
pub fn refused<T: Parser>(words: &[String]) -> Option<String> {
    let start = match words.iter().position(|word| word == "cargo") {
        Some(at) if words.get(at + 1).is_some_and(|word| word == "xtask") => at + 1,
        Some(_) => return None,
        None => words.iter().position(|word| word == "mom-train")?,
    };
    let error = T::try_parse_from(&words[start..]).err()?;
    let told = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    (!told).then(|| error.to_string().lines().next().unwrap_or_default().to_owned())
}

/// A line's words: quotes group, `#` at the beginning of a word begins a remark.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn commands(text: &str) -> Vec<Vec<String>> {
        of(&Block { text: text.to_owned(), ..Block::default() })
    }

    #[test]
    fn lines_are_words_as_a_shell_takes_them() {
        let got = commands("a \"b c\" ''   # remark\n\n# nothing\nd \\\n  e#f 'g \"h'\n");
        assert_eq!(got, [vec!["a", "b c", ""], vec!["d", "e#f", "g \"h"]]);
    }

    #[test]
    fn options_that_do_not_exist_are_told() {
        let wrong = |line: &str| refused::<Task>(&commands(line)[0]);
        assert_eq!(wrong("cargo xtask ablate --dry-run"), None);
        assert_eq!(wrong("cargo xtask ablate --help"), None);
        assert_eq!(wrong("pip install mdbook"), None);
        assert_eq!(wrong("X=1 cargo test -p mom-train --test cuda"), None);
        assert_eq!(wrong("torchrun --no-python mom-train train --config a.toml --out b train.device=cuda"), None);
        assert!(wrong("X=1 cargo xtask ablate --dry").unwrap().contains("--dry"));
        assert!(wrong("srun mom-train train --out b").unwrap().contains("required"));
    }
}
