//! What a server is configured with, as far as the manifest shows it: files from ConfigMaps, and the command's options.

use super::field::Field;
use super::program::{File, Mounts, Program, Text, variable, variable_name};
use super::words::{REDIS_SERVER, is_redis_conf, pattern};
use regex::Regex;
use std::sync::LazyLock;

/// A directive of redis.conf, or an option of the command.
#[derive(Clone, Debug)]
pub struct Directive<'a> {
    /// Its name, in lower case.
    pub name: String,
    /// What follows it, without quotes.
    pub values: Vec<String>,
    /// The text that holds it.
    pub text: Text<'a>,
    /// Its line in that text, counted from 0.
    pub line: usize,
    /// Whether it is an option of the command: then its value is in the process's arguments.
    pub option: bool,
}

impl Directive<'_> {
    /// Its values as one text.
    pub fn value(&self) -> String {
        self.values.join(" ")
    }

    /// Whether what it will be is not written here: a variable, a command, a template.
    pub fn is_open(&self) -> bool {
        self.values
            .iter()
            .any(|value| value.contains(['$', '`', '%']) || value.contains("{{"))
    }
}

/// The configuration of a server.
#[derive(Clone, Debug)]
pub struct Configuration<'a> {
    /// The texts in ConfigMaps that are a redis.conf, mounted into the server's container.
    pub files: Vec<Text<'a>>,
    /// Every directive, options last: of two of a name the last one counts.
    pub directives: Vec<Directive<'a>>,
    /// Whether all of it is in sight: the command that starts the server, all scripts that it calls, and every file.
    pub is_whole: bool,
}

impl<'a> Configuration<'a> {
    /// The configuration of the server that `start` starts in a container.
    pub fn new(start: &Program<'a>, mounts: &Mounts<'a>, container: &Field<'a>) -> Self {
        let mut files: Vec<Text<'a>> = start
            .scripts
            .iter()
            .filter(|text| is_redis_conf(text.text))
            .cloned()
            .collect();
        let arguments = arguments(start, container);
        for argument in &arguments {
            if let Argument::Path(path) = argument
                && let File::Found(text) = mounts.file(path)
                && is_redis_conf(text.text)
                && !files.iter().any(|file| std::ptr::eq(file.text, text.text))
            {
                files.push(text);
            }
        }
        let named = !files.is_empty();
        if !named {
            files = mounted(mounts)
                .into_iter()
                .filter(|text| is_redis_conf(text.text))
                .collect();
        }
        let mut directives: Vec<Directive<'a>> = files.iter().flat_map(of_file).collect();
        directives.extend(options(start));
        let in_sight = start.has(&REDIS_SERVER) && start.in_sight;
        // A file that nothing names is not read.
        let is_whole = in_sight
            && (named || !names_a_file(start, mounts))
            && arguments.iter().all(|argument| argument.is_seen(start, mounts))
            && includes(&directives, start, container).all(|include| include.is_seen(start, mounts))
            && !copies_unseen(start, mounts);
        if in_sight && !named {
            directives.retain(|directive| directive.option);
        }
        Self {
            files,
            directives,
            is_whole,
        }
    }

    /// The directive of a name that counts.
    pub fn get(&self, name: &str) -> Option<&Directive<'a>> {
        self.directives.iter().rev().find(|directive| directive.name == name)
    }

    /// A number, where one is written.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)
            .and_then(|directive| directive.values.first()?.parse().ok())
    }
}

/// Every text of the ConfigMaps mounted.
fn mounted<'a>(mounts: &Mounts<'a>) -> Vec<Text<'a>> {
    let maps = mounts.all.iter().flat_map(|mount| &mount.config_maps);
    maps.flat_map(|(object, _)| object.at("data").entries())
        .filter_map(|(_, field)| Text::of(&field))
        .collect()
}

/// Whether the command names a redis.conf that is in no ConfigMap.
fn names_a_file(start: &Program<'_>, mounts: &Mounts<'_>) -> bool {
    let words = start
        .texts()
        .flat_map(|text| text.lines().map(|(_, line)| line).collect::<Vec<_>>());
    words
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_matches(['"', '\'']))
        .any(|word| word.ends_with(".conf") && !matches!(mounts.file(word), File::Found(_)))
}

/// What the server is given as its file, or what is added to that.
enum Argument {
    /// A file.
    Path(String),
    /// A variable that the script itself fills in with a path.
    Scripts,
    /// What that is cannot be seen: it may be a file, or hold options.
    Unseen,
}

impl Argument {
    fn of(word: &str, start: &Program<'_>, container: &Field<'_>) -> Self {
        let Some(name) = variable_name(word) else {
            return match word.contains(['$', '`']) {
                true => Self::Unseen,
                false => Self::Path(word.to_owned()),
            };
        };
        // A script's own `conf=/data/redis.conf` goes before the environment.
        let assigned = pattern(&format!("(^|[ \t;]){name}=[\"']?/"));
        if start.shell().iter().any(|text| text.has(&assigned)) {
            return Self::Scripts;
        }
        match variable(container, name) {
            Some(value) => Self::Path(value.to_owned()),
            None => Self::Unseen,
        }
    }

    /// Whether what it holds is in sight: an entry of a ConfigMap, or what a script in sight writes.
    fn is_seen(&self, start: &Program<'_>, mounts: &Mounts<'_>) -> bool {
        match self {
            Self::Path(path) => {
                let written = pattern(&format!("(>|tee|cp|mv|sed)[^;&|]*{}", regex::escape(path)));
                matches!(mounts.file(path), File::Found(_)) || start.shell().iter().any(|text| text.has(&written))
            }
            Self::Scripts => true,
            Self::Unseen => false,
        }
    }
}

/// What stands before the first option of every command that starts the server, but for a script's own `"$@"`.
fn arguments(start: &Program<'_>, container: &Field<'_>) -> Vec<Argument> {
    let shell = start.shell();
    let is_shell = |text: &Text<'_>| shell.iter().any(|other| std::ptr::eq(other.text, text.text));
    let plain: Vec<String> = start
        .words
        .iter()
        .filter(|text| !is_shell(text))
        .flat_map(|text| words(text.text))
        .collect();
    let is_server = plain.iter().position(|word| REDIS_SERVER.is_match(word));
    let before_options = |words: Vec<String>| words.into_iter().take_while(|word| !word.starts_with("--"));
    // Of a script's own arguments only what Kubernetes writes there is looked at: the others may be for the script.
    let own: Vec<String> = match is_server {
        Some(at) => before_options(plain[at + 1..].to_vec()).collect(),
        None => before_options(plain).filter(|word| word.starts_with("$(")).collect(),
    };
    let mut said: Vec<String> = own;
    for text in &shell {
        for command in server_commands(text) {
            let mut before = true;
            for word in command {
                before &= !word.starts_with("--");
                // `"${options[@]}"` may hold options wherever it stands.
                if before || word.contains("[@]") || word.contains("[*]") {
                    said.push(word);
                }
            }
        }
    }
    let is_own = |word: &String| ["$@", "$*"].contains(&word.as_str()) || word.contains(['>', '<']);
    let may_be_a_file = |word: &String| word.starts_with('/') || word.ends_with(".conf") || word.contains(['$', '`']);
    said.retain(|word| may_be_a_file(word) && !is_own(word));
    said.iter().map(|word| Argument::of(word, start, container)).collect()
}

/// What files and options include.
fn includes<'d>(
    directives: &'d [Directive<'_>],
    start: &'d Program<'_>,
    container: &'d Field<'_>,
) -> impl Iterator<Item = Argument> + 'd {
    let named = directives.iter().filter(|directive| directive.name == "include");
    named
        .filter_map(|directive| directive.values.first())
        .map(move |word| Argument::of(word, start, container))
}

/// Whether a script puts together the server's file from one that is not in sight.
fn copies_unseen(start: &Program<'_>, mounts: &Mounts<'_>) -> bool {
    static COPIES: LazyLock<Regex> = LazyLock::new(|| pattern("(?:^|[ \t;&|({])(cat|cp)[ \t]([^;&|>]*)"));
    start.shell().into_iter().flat_map(Text::lines).any(|(_, line)| {
        COPIES.captures_iter(line).any(|copy| {
            let words = copy[2].split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            let files: Vec<&str> = words
                .filter(|word| word.starts_with('/') && *word != "/etc/resolv.conf")
                .collect();
            // The last one of cp is where the copy goes.
            let last = usize::from(&copy[1] == "cp");
            let read = &files[..files.len().saturating_sub(last)];
            line.contains(".conf") && read.iter().any(|path| !matches!(mounts.file(path), File::Found(_)))
        })
    })
}

fn of_file<'a>(text: &Text<'a>) -> Vec<Directive<'a>> {
    let directive = |(line, content): (usize, &str)| {
        let mut words = words(content).into_iter();
        Some(Directive {
            name: words.next()?.to_ascii_lowercase(),
            values: words.collect(),
            text: text.clone(),
            line,
            option: false,
        })
    };
    text.lines().filter_map(directive).collect()
}

/// The words of a line, without quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '\'' => rest[1..].split_once(first).unwrap_or((&rest[1..], "")),
            _ => rest.split_once([' ', '\t']).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// The options of the command that starts the server: `--port 6379`, in its own words and in scripts' lines.
fn options<'a>(start: &Program<'a>) -> Vec<Directive<'a>> {
    // A value goes with an option of the same command: what a script adds is another one's.
    let shell = start.shell();
    let is_shell = |text: &Text<'_>| shell.iter().any(|other| std::ptr::eq(other.text, text.text));
    let plain = start.words.iter().filter(|text| !is_shell(text));
    // An argument may hold an option and its value: "--port 6379".
    let own = plain.flat_map(|text| words(text.text).into_iter().map(move |word| (word, text, 0)));
    let mut options = of_command(own.collect());
    for text in &shell {
        options.extend(of_command(server_words(text)));
    }
    options
}

/// The options among the words of one command.
fn of_command<'a>(said: Vec<(String, &Text<'a>, usize)>) -> Vec<Directive<'a>> {
    let mut options: Vec<Directive<'a>> = Vec::new();
    for (word, text, line) in said {
        match (word.strip_prefix("--"), options.last_mut()) {
            (Some(name), _) if !name.is_empty() => {
                let (name, value) = name
                    .split_once('=')
                    .map_or((name, None), |(name, value)| (name, Some(value)));
                options.push(Directive {
                    name: name.to_ascii_lowercase(),
                    values: value.map(str::to_owned).into_iter().collect(),
                    text: text.clone(),
                    line,
                    option: true,
                });
            }
            (None, Some(option)) => option.values.push(word),
            _ => {}
        }
    }
    options
}

/// The words after the server's name on a shell text's lines.
fn server_words<'t, 'a>(text: &'t Text<'a>) -> Vec<(String, &'t Text<'a>, usize)> {
    let mut found = Vec::new();
    for (line, command) in text.commands() {
        if let Some(at) = REDIS_SERVER.find(&command) {
            let after = command[at.end()..].split([';', '|', '&']).next().unwrap_or_default();
            // A `\` at a line's end joins commands: the first line that has the word is its own.
            let place = |word: &str| {
                let lines = text.text.lines().enumerate().skip(line);
                lines
                    .take(64)
                    .find(|(_, content)| content.contains(word))
                    .map_or(line, |(number, _)| number)
            };
            found.extend(words(after).into_iter().map(|word| {
                let line = place(&word);
                (word, text, line)
            }));
        }
    }
    found
}

/// The words after the server's name, command by command.
fn server_commands(text: &Text<'_>) -> Vec<Vec<String>> {
    let after = |command: &str| {
        let at = REDIS_SERVER.find(command)?.end();
        // A message about it starts none.
        if command.starts_with("echo") || command.starts_with("printf") {
            return None;
        }
        Some(words(command[at..].split([';', '|', '&']).next().unwrap_or_default()))
    };
    text.commands()
        .iter()
        .filter_map(|(_, command)| after(command))
        .collect()
}
