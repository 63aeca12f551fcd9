//! Lines that people write, clocks that are put forward and back, and a comparison with looking at every minute.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn zone(name: &str) -> TimeZone {
    time_zone(name).unwrap()
}

/// The next times after one, as the zone's clock shows them.
fn next(line: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
    let (cron, zone) = (Cron::parse(line).unwrap(), zone(zone_name));
    let mut time = at(after);
    (0..count)
        .map(|_| {
            time = cron.next_after(time, &zone).unwrap();
            let shown = zone.to_offset(time);
            format!("{}{shown}", shown.to_datetime(time).strftime("%m-%d %H:%M:%S "))
        })
        .collect()
}

fn problem(line: &str) -> String {
    Cron::parse(line).unwrap_err().to_string()
}

#[test]
fn lines_say_what_they_say_everywhere() {
    let start = "2026-01-30T22:59:59Z";
    assert_eq!(next("0 23 * * *", "UTC", start, 1), ["01-30 23:00:00 +00"]);
    assert_eq!(next("*/20 * * * *", "UTC", start, 2), ["01-30 23:00:00 +00", "01-30 23:20:00 +00"]);
    assert_eq!(next("@monthly", "UTC", start, 2), ["02-01 00:00:00 +00", "03-01 00:00:00 +00"]);
    assert_eq!(next("0 0 31 * *", "UTC", start, 2), ["01-31 00:00:00 +00", "03-31 00:00:00 +00"]);
    assert_eq!(next("5 4 * feb mon-fri/2", "UTC", start, 2), ["02-02 04:05:00 +00", "02-04 04:05:00 +00"]);
    assert_eq!(next("0 0 * * 7", "UTC", start, 1), next("0 0 * * sun", "UTC", start, 1));
    assert_eq!(next("*/2 * * * * *", "UTC", start, 2), ["01-30 23:00:00 +00", "01-30 23:00:02 +00"]);
    // Where both kinds of days are limited, either will do.
    assert_eq!(next("0 0 13 * fri", "UTC", start, 2), ["02-06 00:00:00 +00", "02-13 00:00:00 +00"]);
    assert_eq!(next("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["02-29 00:00:00 +00"]);
}

#[test]
fn what_is_wrong_with_a_line_is_said() {
    assert_eq!(problem("0 0 30 2 *"), "`0 0 30 2 *`: it never comes: February has no such day of the month");
    assert!(problem("0 0 31 4,6 *").contains("April and June have no such day"));
    assert!(Cron::parse("0 0 30 2 mon").is_ok(), "Mondays will do");
    assert!(problem("60 * * * *").contains("the minute `60` is not between 0 and 59"));
    assert!(problem("* * * * monday").contains("nor one of sun, mon"));
    assert!(problem("* * *").contains("has 3 fields"));
    assert!(problem("5-1 * * * *").contains("ends before it begins"));
    assert!(problem("*/0 * * * *").contains("no step"));
    assert!(problem("* * L * *").contains("`L`, `W`, `#` and `?`"));
    assert!(problem("@reboot").contains("@hourly"));
    assert!(problem("CRON_TZ=Europe/Berlin 0 0 * * *").contains("timezone"));
    assert!(problem(&"*".repeat(1000)).contains("longer than"));
}

#[test]
fn the_first_part_that_is_wrong_is_told_with_its_column() {
    let begins = |line: &str, begin: &str| {
        let problem = problem(line);
        assert!(problem.starts_with(begin), "{problem}");
    };
    begins("60 * * * mond", "`60 * * * mond`, column 1: the minute `60`");
    begins("0 3,25 * * *", "`0 3,25 * * *`, column 5: the hour `25`");
    begins("  0 0  * * fry", "`  0 0  * * fry`, column 12: the day of the week `fry`");
    begins("0 0 1-5/40 * * *", "`0 0 1-5/40 * * *`, column 5: the hour `1-5/40`");
    begins("0 0 30 2 *", "`0 0 30 2 *`: it never comes");
    begins("* * *", "`* * *`: it has 3 fields");
}

#[test]
fn a_time_zone_that_was_nearly_hit_is_suggested() {
    assert!(time_zone("Europe/Berlni").unwrap_err().contains("`Europe/Berlin`"));
    assert!(time_zone("Tokyo").unwrap_err().contains("`Asia/Tokyo`"));
    assert!(time_zone("../etc/passwd").unwrap_err().contains("such as `Europe/Berlin`"));
    assert!(time_zone("Europe/Berlin").is_ok() && time_zone("utc").is_ok());
}

#[test]
fn a_time_that_the_clock_passes_over_comes_when_it_has_done_so() {
    // 2026-03-29, 02:00 to 03:00.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        ["03-28 02:30:00 +01", "03-29 03:00:00 +02", "03-30 02:30:00 +02"]
    );
    // Several of them come once.
    assert_eq!(
        next("0,30 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
        ["03-29 03:00:00 +02", "03-29 03:30:00 +02", "03-30 02:00:00 +02"]
    );
}

#[test]
fn a_time_that_the_clock_shows_twice_comes_once() {
    // 2026-10-25, 03:00 to 02:00.
    assert_eq!(
        next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["10-25 02:30:00 +02", "10-26 02:30:00 +01"]
    );
    // Also for somebody who begins to look in the hour that is shown again.
    assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["10-26 02:30:00 +01"]);
    assert_eq!(next("30 3 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["10-25 03:30:00 +01"]);
}

#[test]
fn every_hour_is_every_hour_when_clocks_are_changed() {
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 4),
        ["10-25 02:30:00 +02", "10-25 02:30:00 +01", "10-25 03:30:00 +01", "10-25 04:30:00 +01"]
    );
    assert_eq!(
        next("30 * * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", 2),
        ["03-29 01:30:00 +01", "03-29 03:30:00 +02"]
    );
}

#[test]
fn a_day_that_a_zone_has_left_out_is_made_up_for() {
    // Samoa went from the 29th to the 31st.
    assert_eq!(next("0 12 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", 1), ["12-31 00:00:00 +14"]);
}

#[test]
fn the_newest_times_are_found_however_long_ago_the_last_look_was() {
    let cron = Cron::parse("*/1 * * * * *").unwrap();
    let until = at("2026-06-01T00:00:00Z");
    let (found, more) = cron.newest(at("2001-01-01T00:00:00Z"), until, 3, &TimeZone::UTC);
    assert_eq!((found.len(), found[2], more), (3, until, true));
    let yearly = Cron::parse("@yearly").unwrap();
    let (found, more) = yearly.newest(at("2023-12-31T00:00:00Z"), until, 3, &TimeZone::UTC);
    let years = ["2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"].map(at);
    assert_eq!((found, more), (years.to_vec(), false));
}

/// A field of a line with its set of numbers.
fn field(least: u8, most: u8) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just("*".to_owned()),
        2 => (least..=most).prop_map(|number| number.to_string()),
        1 => (1..=most).prop_map(|step| format!("*/{step}")),
        1 => (least..=most, least..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// In a zone without changes, the next time is the first minute that matches.
    #[test]
    fn the_next_time_is_the_first_minute_that_matches(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 28), weekday in field(0, 6),
        start in 1_700_000_000_i64..1_800_000_000,
    ) {
        let cron = Cron::parse(&format!("{minute} {hour} {day} * {weekday}")).unwrap();
        let start = Timestamp::from_second(start).unwrap();
        let found = cron.next_after(start, &TimeZone::UTC).unwrap();
        let matches = |second: i64| {
            let time = civil(second).unwrap();
            has(cron.minutes, time.minute() as u8) && has(cron.hours, time.hour() as u8) && cron.has_day(time.date())
        };
        prop_assert!(found > start && found.as_second() % 60 == 0 && matches(found.as_second()));
        let first = (start.as_second() / 60 + 1) * 60;
        let before = (first..found.as_second()).step_by(60).take(60 * 24 * 40).find(|second| matches(*second));
        prop_assert_eq!(before, None);
    }

    /// Where clocks change: times only grow, looking from any moment in between finds the same next one, and nothing that the clock shows
    /// for the first time is left out.
    #[test]
    fn looking_from_anywhere_finds_the_same_times(
        minute in field(0, 59), hour in field(0, 23), name in prop_oneof![
            Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe"), Just("Asia/Kathmandu"),
        ],
        start in 1_770_000_000_i64..1_800_000_000, part in 0.0..1.0_f64,
    ) {
        let (cron, zone) = (Cron::parse(&format!("{minute} {hour} * * *")).unwrap(), zone(name));
        let mut time = Timestamp::from_second(start).unwrap();
        for _ in 0..20 {
            let next = cron.next_after(time, &zone).unwrap();
            prop_assert!(next > time);
            let gap = (next.as_second() - time.as_second() - 1) as f64;
            let between = Timestamp::from_second(time.as_second() + (gap * part) as i64).unwrap();
            prop_assert_eq!(cron.next_after(between, &zone), Some(next));
            let shown = zone.to_offset(next).to_datetime(next);
            let is_change = zone.preceding(time_after(next).unwrap()).next().is_some_and(|change| change.timestamp() == next);
            prop_assert!(is_change || has(cron.hours, shown.hour() as u8) && has(cron.minutes, shown.minute() as u8));
            time = next;
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[*0-9a-z/,@# -]{0,40}") {
        let _ = Cron::parse(&text);
    }
}
