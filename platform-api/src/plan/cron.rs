//! Cron lines: reading one, and the next time that it says.
//!
//! A line is a set of numbers a field. Between two changes of a zone's clock local time runs as fast as real time, so a time is looked for in
//! plain local numbers there, and what the changes themselves do is decided in one place ([`Cron::next_after`]):
//!
//! - A line whose hour begins with `*` means real time: it says nothing in an hour that a clock passes over, and both when there are two.
//! - Any other means the clock on the wall: a time that the clock passes over comes when it has done so, and one that it
//!   shows twice comes the first time.

use std::time::Duration;

use jiff::civil::{Date, DateTime};
use jiff::tz::{Offset, TimeZone};
use wharf_types::Timestamp;

/// Longer than anything that somebody writes.
const TEXT_MAX_CHARS: usize = 256;
/// A day that does not come within so many years never comes: the 29th of February has at most eight between two.
const YEARS_MAX: i16 = 9;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What is wrong with a line, in a sentence for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{line}`{}: {problem}", .column.map(|column| format!(", column {column}")).unwrap_or_default())]
pub struct InvalidCron {
    line: String,
    /// Counted in characters, from 1. None: it is about the line as a whole.
    column: Option<usize>,
    problem: String,
}

/// A problem, at an offset in octets if it is one of a part of the line.
type Problem = (Option<usize>, String);

/// A line that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// 0 is Sunday.
    weekdays: u64,
    /// Whether a day has to be in one of `days` and `weekdays` instead of in both, because both are limited.
    either_day: bool,
    is_real_time: bool,
}

/// Of a field: its name, least and greatest number, and names for numbers from the least on.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
}

const SECOND: Field = Field { name: "second", least: 0, most: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of the month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field { name: "month", least: 1, most: 12, names: &MONTHS };
/// 7 is Sunday, too.
const WEEKDAY: Field = Field { name: "day of the week", least: 0, most: 7, names: &WEEKDAYS };

impl Cron {
    pub fn parse(text: &str) -> Result<Self, InvalidCron> {
        let line: String = text.chars().take(80).collect::<String>().escape_debug().to_string();
        let invalid = |(at, problem): Problem| {
            let column = at.map(|at| text[..at].chars().count() + 1);
            InvalidCron { line: line.clone(), column, problem }
        };
        if text.chars().count() > TEXT_MAX_CHARS {
            return Err(invalid((None, format!("it is longer than {TEXT_MAX_CHARS} characters"))));
        }
        // Every letter stays where it is.
        let lower = text.to_ascii_lowercase();
        let cron = Self::read(&lower).map_err(invalid)?;
        let utc = TimeZone::UTC;
        // 2000 is a leap year, and the years after it have every weekday on every day.
        let start = Timestamp::from_second(946_684_800).unwrap_or(Timestamp::UNIX_EPOCH);
        if cron.next_after(start, &utc).is_none() {
            let months: Vec<u8> = (1..=12).filter(|month| has(cron.months, *month)).collect();
            let problem = format!(
                "it never comes: {} {} no such day of the month",
                join(months.iter().map(|month| month_name(*month))),
                if months.len() == 1 { "has" } else { "have" },
            );
            return Err(invalid((None, problem)));
        }
        Ok(cron)
    }

    fn read(text: &str) -> Result<Self, Problem> {
        let of_line = |problem: &str| (None, problem.to_owned());
        let text = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            name if name.starts_with('@') => {
                return Err(of_line(
                    "there are the names @hourly, @daily, @weekly, @monthly and @yearly; for every five minutes write `*/5 * * * *`",
                ));
            }
            _ => text,
        };
        if text.contains("tz=") {
            return Err(of_line("the time zone is a setting of its own: `timezone`, or --timezone"));
        }
        let words = words(text);
        let (second, rest) = match words.as_slice() {
            [second, rest @ ..] if rest.len() == 5 => (*second, rest),
            rest if rest.len() == 5 => ((0, "0"), rest),
            _ => {
                let problem = format!(
                    "it has {} fields; write five (minute, hour, day of the month, month, day of the week), or six with the second first",
                    words.len()
                );
                return Err((None, problem));
            }
        };
        let [minute, hour, day, month, weekday] = rest else {
            return Err(of_line("it has no five fields"));
        };
        let (seconds, minutes, hours) = (SECOND.read(second)?, MINUTE.read(*minute)?, HOUR.read(*hour)?);
        let (days, months, weekdays) = (DAY.read(*day)?, MONTH.read(*month)?, WEEKDAY.read(*weekday)?);
        let is_any = |(_, word): &(usize, &str)| word.starts_with('*');
        Ok(Self {
            seconds,
            minutes,
            hours,
            days,
            months,
            weekdays: (weekdays | weekdays >> 7 & 1) & 0x7f,
            either_day: !is_any(day) && !is_any(weekday),
            is_real_time: is_any(hour),
        })
    }

    /// The first planned time after this one. None: there is none before the end of all times.
    pub fn next_after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut from = time.as_second().checked_add(1)?;
        // Before the first change that is to come, and then between each and the next.
        let mut offset = zone.to_offset(time);
        // Local times before this one have been, because the clock was put back.
        let mut fresh = match zone.preceding(time_after(time)?).next() {
            Some(change) if !self.is_real_time => self.first_fresh(zone, change.timestamp(), offset),
            _ => i64::MIN,
        };
        let horizon = zone_year(time, offset) + YEARS_MAX;
        for change in zone.following(time) {
            let at = change.timestamp().as_second();
            if let Some(found) = self.next_local(local(from, offset).max(fresh), horizon) {
                let found = found - i64::from(offset.seconds());
                if found < at {
                    return Timestamp::from_second(found).ok();
                }
            } else {
                return None;
            }
            let before = std::mem::replace(&mut offset, change.offset());
            fresh = i64::MIN;
            if !self.is_real_time {
                let (old, new) = (local(at, before), local(at, offset));
                fresh = old;
                // What the clock has passed over comes now.
                let skipped = self.next_local(old, horizon).filter(|skipped| *skipped < new);
                if skipped.is_some() && at >= from {
                    return Timestamp::from_second(at).ok();
                }
            }
            from = from.max(at);
        }
        let found = self.next_local(local(from, offset).max(fresh), horizon)?;
        Timestamp::from_second(found - i64::from(offset.seconds())).ok()
    }

    /// The first local time after a change that was not there before it.
    fn first_fresh(&self, zone: &TimeZone, change: Timestamp, offset: Offset) -> i64 {
        let at = change.as_second();
        match Timestamp::from_second(at - 1) {
            Ok(before) => local(at, zone.to_offset(before)).max(local(at, offset)),
            Err(_) => i64::MIN,
        }
    }

    /// The newest planned times after `after`, up to `until`, oldest first: at most `count`, and whether there are more.
    pub fn newest(
        &self,
        after: Timestamp,
        until: Timestamp,
        count: usize,
        zone: &TimeZone,
    ) -> (Vec<Timestamp>, bool) {
        // However long ago `after` is, only as far is looked back as it takes to find so many.
        let mut back = Duration::from_secs(1);
        loop {
            let start = until.checked_sub(back).ok().filter(|start| *start > after);
            let from = start.unwrap_or(after);
            let mut found = Vec::new();
            let mut next = self.next_after(from, zone);
            while let Some(time) = next.filter(|time| *time <= until) {
                found.push(time);
                next = self.next_after(time, zone);
            }
            let is_more = found.len() > count;
            if is_more || start.is_none() {
                let oldest = found.len().saturating_sub(count);
                return (found.split_off(oldest), is_more);
            }
            back = back.saturating_mul(2);
        }
    }

    /// The first local time from this one on, both in seconds since 1970 as if there were no zones.
    fn next_local(&self, from: i64, horizon: i16) -> Option<i64> {
        let from = civil(from)?;
        let mut date = from.date();
        let mut earliest = Some(from);
        loop {
            if date.year() > horizon {
                return None;
            }
            if !has(self.months, date.month() as u8) {
                earliest = None;
                date = date.last_of_month().tomorrow().ok()?;
                continue;
            }
            if self.has_day(date)
                && let Some(second) = self.next_in_day(earliest)
            {
                return Some(seconds(date.to_datetime(jiff::civil::Time::midnight())) + second);
            }
            earliest = None;
            date = date.tomorrow().ok()?;
        }
    }

    /// The first second of a day that is not before `earliest`.
    fn next_in_day(&self, earliest: Option<DateTime>) -> Option<i64> {
        let (hour, minute, second) =
            earliest.map_or((0, 0, 0), |time| (time.hour() as u8, time.minute() as u8, time.second() as u8));
        let first = |set: u64, least: u8| (least..60).find(|number| has(set, *number));
        for (from_hour, from_minute, from_second) in
            [(hour, minute, second), (hour, minute + 1, 0), (hour + 1, 0, 0)]
        {
            // Hours and minutes that are still those of `earliest` are only taken if they are in their sets.
            let found_hour = first(self.hours, from_hour).filter(|hour| *hour < 24);
            let Some(found_hour) = found_hour else { continue };
            let is_same_hour = found_hour == hour && from_hour == hour;
            let Some(found_minute) = first(self.minutes, if is_same_hour { from_minute } else { 0 }) else {
                continue;
            };
            let is_same_minute = is_same_hour && found_minute == minute && from_minute == minute;
            let Some(found_second) = first(self.seconds, if is_same_minute { from_second } else { 0 }) else {
                continue;
            };
            return Some(
                i64::from(found_hour) * 3600 + i64::from(found_minute) * 60 + i64::from(found_second),
            );
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let by_day = has(self.days, date.day() as u8);
        let by_weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset() as u8);
        if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }
}

impl Field {
    /// Reads lists of `*`, `a`, `a-b`, each with an optional `/step`, of a word that begins somewhere.
    fn read(&self, (mut at, word): (usize, &str)) -> Result<u64, Problem> {
        let mut set = 0;
        for part in word.split(',') {
            set |= self.part(part).map_err(|problem| (Some(at), problem))?;
            at += part.len() + 1;
        }
        Ok(set)
    }

    fn part(&self, part: &str) -> Result<u64, String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse::<u8>().ok().filter(|step| (1..=self.most).contains(step));
                let step = step.ok_or_else(|| {
                    format!("the {} `{part}` has no step between 1 and {}", self.name, self.most)
                })?;
                (range, Some(step))
            }
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (self.number(from)?, self.number(to)?),
            None if range == "*" => (self.least, self.most),
            None if step.is_some() => (self.number(range)?, self.most),
            None => (self.number(range)?, self.number(range)?),
        };
        if from > to {
            return Err(format!("the {} `{part}` ends before it begins; write two ranges", self.name));
        }
        let numbers = (from..=to).step_by(step.unwrap_or(1).into());
        Ok(numbers.fold(0, |set, number| set | (1_u64 << number)))
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        if let Some(place) = self.names.iter().position(|name| *name == text) {
            return Ok(self.least + u8::try_from(place).unwrap_or(0));
        }
        let mark = text.trim_start_matches(|c: char| c.is_ascii_digit());
        if ["l", "w", "lw", "?"].contains(&mark) || text.contains('#') {
            return Err(format!("the {} `{text}`: `L`, `W`, `#` and `?` are not known here", self.name));
        }
        let number = text.parse::<u8>().ok().filter(|number| (self.least..=self.most).contains(number));
        number.ok_or_else(|| match self.names {
            [] => format!("the {} `{text}` is not between {} and {}", self.name, self.least, self.most),
            names => format!(
                "the {} `{text}` is not between {} and {}, nor one of {}",
                self.name,
                self.least,
                self.most,
                names.join(", ")
            ),
        })
    }
}

/// The words of a line, and where they begin, in octets.
fn words(line: &str) -> Vec<(usize, &str)> {
    let (mut words, mut at) = (Vec::new(), 0);
    while let Some(space) = line[at..].find(|c: char| !c.is_whitespace()) {
        let start = at + space;
        let end = line[start..].find(char::is_whitespace).map_or(line.len(), |length| start + length);
        words.push((start, &line[start..end]));
        at = end;
    }
    words
}

/// Finds a time zone, or says which one may have been meant.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.eq_ignore_ascii_case("utc") {
        return Ok(TimeZone::UTC);
    }
    if let Ok(zone) = TimeZone::get(name) {
        return Ok(zone);
    }
    let shown: String = name.chars().take(60).collect::<String>().escape_debug().to_string();
    let wanted = name.to_ascii_lowercase().replace(' ', "_");
    let near = |known: &str| {
        let known = known.to_ascii_lowercase();
        let city = known.rsplit('/').next().unwrap_or_default();
        edits(&wanted, &known).min(edits(&wanted, city))
    };
    let names: Vec<String> = jiff::tz::db().available().map(|known| known.as_str().to_owned()).collect();
    let most = (wanted.len() / 3).clamp(1, 2);
    let nearest = names.iter().min_by_key(|known| near(known)).filter(|known| near(known) <= most);
    Err(match nearest {
        Some(nearest) => format!("there is no time zone `{shown}`; is `{nearest}` meant?"),
        None => format!("there is no time zone `{shown}`; write one such as `Europe/Berlin`, or `UTC`"),
    })
}

/// How many characters have to be changed, put in or taken out. Long texts are far from everything.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn has(set: u64, number: u8) -> bool {
    number < 64 && set >> number & 1 == 1
}

fn local(second: i64, offset: Offset) -> i64 {
    second + i64::from(offset.seconds())
}

fn civil(second: i64) -> Option<DateTime> {
    Some(Offset::UTC.to_datetime(Timestamp::from_second(second).ok()?))
}

fn seconds(time: DateTime) -> i64 {
    Offset::UTC.to_timestamp(time).map_or(i64::MAX / 2, |time| time.as_second())
}

fn zone_year(time: Timestamp, offset: Offset) -> i16 {
    offset.to_datetime(time).year()
}

fn time_after(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_second(time.as_second().checked_add(1)?).ok()
}

fn month_name(month: u8) -> &'static str {
    const NAMES: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    NAMES[usize::from(month.clamp(1, 12)) - 1]
}

fn join(words: impl Iterator<Item = &'static str>) -> String {
    let words: Vec<&str> = words.collect();
    match words.as_slice() {
        [] => "no month".to_owned(),
        [one] => (*one).to_owned(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests;
