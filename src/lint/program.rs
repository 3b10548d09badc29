//! What the containers run: commands, hooks and probes, and the scripts in ConfigMaps that these call.

use super::field::{Field, Object};
use super::words::{is_redis_conf, pattern};
use regex::Regex;
use std::sync::LazyLock;

/// A text of the manifest that somebody runs or reads: a command, a script, a redis.conf.
#[derive(Clone, Debug)]
pub struct Text<'a> {
    /// The field that holds it.
    pub field: Field<'a>,
    /// The text.
    pub text: &'a str,
}

impl<'a> Text<'a> {
    /// The text of a field, where it is one.
    pub fn of(field: &Field<'a>) -> Option<Self> {
        field.text().map(|text| Self {
            field: field.clone(),
            text,
        })
    }

    /// Its lines that are neither blank nor a comment, each with its number from 0.
    pub fn lines(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let code = |line: &&str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
        self.text.lines().enumerate().filter(move |(_, line)| code(line))
    }

    /// Its commands: lines, with those that a `\` at the end continues joined, each with the number of its first line.
    pub fn commands(&self) -> Vec<(usize, String)> {
        let mut commands: Vec<(usize, String)> = Vec::new();
        let mut goes_on = false;
        for (number, line) in self.lines() {
            let (part, more) = match line.trim_end().strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, false),
            };
            match commands.last_mut() {
                Some((_, command)) if goes_on => {
                    command.push(' ');
                    command.push_str(part.trim());
                }
                _ => commands.push((number, part.trim().to_owned())),
            }
            goes_on = more;
        }
        commands
    }

    /// Whether a line of code holds it.
    pub fn has(&self, pattern: &Regex) -> bool {
        self.lines().any(|(_, line)| pattern.is_match(line))
    }
}

/// Something that a container runs.
#[derive(Clone, Debug)]
pub struct Program<'a> {
    /// Where it is asked for: a hook, a probe, `command` and `args`.
    pub field: Field<'a>,
    /// The words of the command.
    pub words: Vec<Text<'a>>,
    /// The scripts from ConfigMaps that it calls, and those that these call.
    pub scripts: Vec<Text<'a>>,
    /// Whether all that it calls is in sight: nothing else that it names is a script.
    pub in_sight: bool,
}

impl<'a> Program<'a> {
    /// The command of a hook, a probe or a container (`words` are its fields), with the scripts that are found through
    /// the container's mounts.
    pub fn new(field: Field<'a>, words: &[Field<'a>], mounts: &Mounts<'a>) -> Self {
        let words: Vec<Text<'a>> = words.iter().filter_map(Text::of).collect();
        let mut scripts: Vec<Text<'a>> = Vec::new();
        let mut in_sight = true;
        let mut unread: Vec<Text<'a>> = words.clone();
        while let Some(text) = unread.pop() {
            for path in paths(&text) {
                match mounts.file(path) {
                    File::Found(script) => {
                        let known = |other: &Text<'_>| std::ptr::eq(other.text, script.text);
                        if !scripts.iter().any(known) && scripts.len() < 32 {
                            scripts.push(script.clone());
                            unread.push(script);
                        }
                    }
                    File::Elsewhere | File::Missing(_) => {}
                }
            }
            let found = |path: &str| matches!(mounts.file(path), File::Found(_));
            in_sight &= called(&text).into_iter().all(found);
        }
        Self {
            field,
            words,
            scripts,
            in_sight,
        }
    }

    /// Whether there is a command.
    pub fn is_there(&self) -> bool {
        !self.words.is_empty()
    }

    /// The words of the command and the scripts.
    pub fn texts(&self) -> impl Iterator<Item = &Text<'a>> {
        self.words.iter().chain(&self.scripts)
    }

    /// Whether any of them holds it, outside comments.
    pub fn has(&self, pattern: &Regex) -> bool {
        self.texts().any(|text| text.has(pattern))
    }

    /// The texts that a shell reads: the scripts, and the word after `-c`; no redis.conf.
    pub fn shell(&self) -> Vec<&Text<'a>> {
        let inline = self.words.iter().enumerate().filter(|(index, word)| {
            let after_c = *index > 0 && is_c(self.words[index - 1].text);
            after_c || word.text.contains('\n')
        });
        let scripts = self.scripts.iter().filter(|text| !is_redis_conf(text.text));
        inline.map(|(_, word)| word).chain(scripts).collect()
    }

    /// The whole command as one line, and then the scripts' commands, each with its text and the number of its line.
    pub fn commands(&self) -> Vec<(&Text<'a>, usize, String)> {
        let shell = self.shell();
        let mut commands = Vec::new();
        let plain: Vec<&Text<'a>> = self
            .words
            .iter()
            .filter(|word| !shell.iter().any(|text| std::ptr::eq(text.text, word.text)))
            .collect();
        if let Some(first) = plain.first() {
            let whole = plain.iter().map(|word| word.text).collect::<Vec<_>>().join(" ");
            commands.push((*first, 0, whole));
        }
        for text in shell {
            commands.extend(text.commands().into_iter().map(|(line, command)| (text, line, command)));
        }
        commands
    }
}

fn is_c(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("--") && word.ends_with('c')
}

/// The paths that a text calls as programs, and that are in none of the folders of programs.
fn called<'a>(text: &Text<'a>) -> Vec<&'a str> {
    static CALLED: LazyLock<Regex> = LazyLock::new(|| {
        pattern("(^[ \t]*|[;&|(`!][ \t]*|(sh|exec|source|then|do|(?:^|[ \t;&|(])\\.)[ \t]+)(/[A-Za-z0-9_./-]+)")
    });
    let in_line = |(_, line): (usize, &'a str)| {
        CALLED
            .captures_iter(line)
            .filter_map(|found| found.get(3))
            .collect::<Vec<_>>()
    };
    let called = text.lines().flat_map(in_line).map(|found| found.as_str());
    let by_name = paths(text).into_iter().filter(|path| path.ends_with(".sh"));
    called
        .filter(|path| path.len() > 3 && !path.contains("/bin/") && !path.contains("/sbin/"))
        .chain(by_name)
        .collect()
}

/// The absolute paths that a text names outside comments.
fn paths<'a>(text: &Text<'a>) -> Vec<&'a str> {
    let ends = |at: char| at.is_whitespace() || "\"'`;&|<>(){}=,:$*\\".contains(at);
    let words = text.lines().flat_map(|(_, line)| line.split(ends));
    words
        .filter(|word| word.len() > 1 && word.starts_with('/') && !word.starts_with("//"))
        .map(|word| word.trim_end_matches('/'))
        .collect()
}

/// The value of a container's environment variable, where it is written down.
pub(super) fn variable<'a>(container: &Field<'a>, name: &str) -> Option<&'a str> {
    let variables = container.at("env").items();
    let found = variables.iter().find(|variable| variable.at("name").is(name))?;
    found.at("value").text().filter(|value| !value.contains("$("))
}

/// The name in `$(NAME)`, `$NAME` or `${NAME}`, where a word is that and no more.
pub(super) fn variable_name(word: &str) -> Option<&str> {
    static VARIABLE: LazyLock<Regex> = LazyLock::new(|| {
        pattern("^\\$(?:\\(([A-Za-z_][A-Za-z0-9_]*)\\)|\\{([A-Za-z_][A-Za-z0-9_]*)\\}|([A-Za-z_][A-Za-z0-9_]*))$")
    });
    let found = VARIABLE.captures(word)?;
    (1..4).find_map(|group| found.get(group)).map(|name| name.as_str())
}

/// The volumes of a pod as one container sees them.
#[derive(Clone, Debug)]
pub struct Mounts<'a> {
    /// `volumeMounts`, each with the volume that it mounts, where the pod has that.
    pub all: Vec<Mount<'a>>,
}

/// A mount.
#[derive(Clone, Debug)]
pub struct Mount<'a> {
    /// The item of `volumeMounts`.
    pub field: Field<'a>,
    /// Where, without a slash at the end.
    pub path: &'a str,
    /// The pod's volume; not there where a volumeClaimTemplate makes it.
    pub volume: Option<Field<'a>>,
    /// The ConfigMaps of the volume that are in the files, each with the item of the volume that names it.
    pub config_maps: Vec<(Object<'a>, Field<'a>)>,
}

impl Mount<'_> {
    /// Whether what is written there may outlive the pod.
    pub fn is_kept(&self) -> bool {
        const FLEETING: [&str; 6] = [
            "emptyDir",
            "ephemeral",
            "configMap",
            "secret",
            "downwardAPI",
            "projected",
        ];
        let volume = self.volume.as_ref();
        volume.is_none_or(|volume| !FLEETING.iter().any(|kind| volume.at(kind).is_there()))
    }
}

/// What is found at a path.
#[derive(Clone, Debug)]
pub enum File<'a> {
    /// An entry of a ConfigMap.
    Found(Text<'a>),
    /// A ConfigMap is mounted there, and has no such entry: the file is not in the container.
    Missing(Field<'a>),
    /// In the image, or in a volume that nobody can look into.
    Elsewhere,
}

impl<'a> Mounts<'a> {
    /// The mounts of a container.
    pub fn new(pod: &Field<'a>, container: &Field<'a>, objects: &[Object<'a>]) -> Self {
        let volumes = pod.at("volumes").items();
        // A claim template takes the place of a volume of its name.
        let claims = pod.object.at("spec/volumeClaimTemplates").items();
        let all = container.at("volumeMounts").items().into_iter().filter_map(|field| {
            let path = field.at("mountPath").text()?;
            let name = field.at("name").text()?;
            let claimed = claims.iter().any(|claim| claim.at("metadata/name").is(name));
            let named = volumes.iter().find(|volume| volume.at("name").is(name));
            let volume = named.filter(|_| !claimed).cloned();
            let config_maps = volume
                .as_ref()
                .map(|volume| config_maps(volume, objects))
                .unwrap_or_default();
            Some(Mount {
                path: if path == "/" { path } else { path.trim_end_matches('/') },
                field,
                volume,
                config_maps,
            })
        });
        Self { all: all.collect() }
    }

    /// The mount that a path lies in: the innermost.
    pub fn around(&self, path: &str) -> Option<&Mount<'a>> {
        let holds = |mount: &&Mount<'_>| {
            let rest = path.strip_prefix(mount.path);
            mount.path == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let all = self.all.iter().filter(|_| path.starts_with('/'));
        all.filter(holds).max_by_key(|mount| mount.path.len())
    }

    /// The files that ConfigMaps put into the container, each with its path.
    pub fn files(&self) -> Vec<(String, Text<'a>)> {
        let mut found = Vec::new();
        for mount in &self.all {
            for (object, source) in &mount.config_maps {
                let items = source.at("items").items();
                for (key, field) in object.at("data").entries() {
                    let item = items.iter().find(|item| item.at("key").is(key));
                    let below = match item {
                        Some(item) => item.at("path").text(),
                        None => Some(key).filter(|_| items.is_empty()),
                    };
                    let path = match (mount.field.at("subPath").text(), below) {
                        (None, Some(below)) => format!("{}/{below}", mount.path),
                        (Some(sub_path), Some(below)) if sub_path == below => mount.path.to_owned(),
                        (_, None) | (Some(_), Some(_)) => continue,
                    };
                    // Another mount, or another source of this one, may be before it.
                    if let (File::Found(seen), Some(text)) = (self.file(&path), Text::of(&field))
                        && std::ptr::eq(seen.text, text.text)
                    {
                        found.push((path, text));
                    }
                }
            }
        }
        found
    }

    /// The file at a path.
    pub fn file(&self, path: &str) -> File<'a> {
        let Some(mount) = self.around(path) else {
            return File::Elsewhere;
        };
        let sub_path = mount.field.at("subPath").text();
        let below = path[mount.path.len()..].trim_start_matches('/');
        let wanted = match (sub_path, below) {
            (Some(sub_path), "") => sub_path.to_owned(),
            (Some(sub_path), below) => format!("{sub_path}/{below}"),
            (None, below) => below.to_owned(),
        };
        if wanted.is_empty() {
            return File::Elsewhere;
        }
        for (object, source) in &mount.config_maps {
            let items = source.at("items").items();
            let key = if items.is_empty() {
                Some(wanted.as_str())
            } else {
                let item = items.iter().find(|item| item.at("path").is(&wanted));
                item.and_then(|item| item.at("key").text())
            };
            let text = key.and_then(|key| Text::of(&object.at("data").key(key)));
            if let Some(text) = text {
                return File::Found(text);
            }
        }
        // A subPath of a ConfigMap that lacks it is refused when the pod starts, in so many words.
        let all_known = mount.volume.as_ref().is_some_and(|volume| {
            volume.at("configMap").is_there() && !mount.config_maps.is_empty() && !has_binary(&mount.config_maps)
        });
        match &mount.config_maps[..] {
            [(object, _), ..] if all_known && sub_path.is_none() => File::Missing(object.at("data")),
            _ => File::Elsewhere,
        }
    }
}

fn has_binary(config_maps: &[(Object<'_>, Field<'_>)]) -> bool {
    config_maps.iter().any(|(object, _)| object.at("binaryData").is_there())
}

fn config_maps<'a>(volume: &Field<'a>, objects: &[Object<'a>]) -> Vec<(Object<'a>, Field<'a>)> {
    let mut sources = vec![volume.at("configMap")];
    sources.extend(
        volume
            .at("projected/sources")
            .items()
            .iter()
            .map(|source| source.at("configMap")),
    );
    let find = |source: Field<'a>| {
        let name = source.at("name").text()?;
        let named = |object: &&Object<'_>| {
            object.is("ConfigMap") && object.document.name() == name && object.may_meet(volume.object)
        };
        objects.iter().find(named).map(|object| (*object, source))
    };
    sources.into_iter().filter_map(find).collect()
}
