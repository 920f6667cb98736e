//! What is wrong with a configuration file, told by file and line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in (or that could not be read).
    pub file: PathBuf,
    /// The line, from 1; absent where no one line is to blame.
    pub line: Option<usize>,
    /// What is wrong, and where possible what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.text),
            None => write!(f, "{}: {}", self.file.display(), self.text),
        }
    }
}

/// Why a configuration was not taken: at least one [`Problem`], in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    pub(super) fn of_file(file: &Path, text: impl Into<String>) -> Self {
        Self { problems: vec![Problem { file: file.to_owned(), line: None, text: text.into() }] }
    }

    /// All that is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

/// One line for each problem, without a final newline.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Collects the problems of one file.
pub(super) struct Problems<'a> {
    text: &'a str,
    file: &'a Path,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(text: &'a str, file: &'a Path) -> Self {
        Self { text, file, found: Vec::new() }
    }

    /// The number, from 1, of the line that holds the octet `at`.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        1 + before.iter().filter(|&&octet| octet == b'\n').count()
    }

    pub(super) fn add(&mut self, span: Option<Range<usize>>, text: impl Into<String>) {
        let line = span.map(|span| self.line(span.start));
        self.found.push(Problem { file: self.file.to_owned(), line, text: text.into() });
    }

    /// `value` if nothing was found, else what was found.
    pub(super) fn finish<T>(mut self, value: T) -> Result<T, ConfigError> {
        if self.found.is_empty() {
            return Ok(value);
        }
        self.found.sort_by_key(|problem| problem.line);
        Err(ConfigError::new(self.found))
    }
}
