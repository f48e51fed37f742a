//! How long a server asks its clients to stay away: `Retry-After` (RFC 9110 §10.2.3).

use std::time::Duration;

use httparse::Header;

use super::http;

/// The longest that is believed: an answer before TLS, or of a stranger, must not keep a client away for
/// longer than an outage lasts.
const LIMIT: Duration = Duration::from_secs(3600);

/// What the headers of an answer with `status` ask for, an hour at most. Only 429 and 503 are asking; a date
/// counts from the answer's own `Date`, as this host's clock may be wrong, and without one is ignored.
pub(super) fn retry_after(status: u16, headers: &[Header<'_>]) -> Option<Duration> {
    if !matches!(status, 429 | 503) {
        return None;
    }
    let value = http::single(headers, "Retry-After")?;
    let asked = delta(value).or_else(|| {
        let now = http::single(headers, "Date").and_then(seconds_of)?;
        Some(Duration::from_secs(seconds_of(value)?.saturating_sub(now)))
    });
    asked.map(|asked| asked.min(LIMIT))
}

/// `delay-seconds`. A number that nothing here can hold is a long time.
fn delta(value: &[u8]) -> Option<Duration> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = std::str::from_utf8(value).ok()?;
    Some(Duration::from_secs(digits.parse().unwrap_or(u64::MAX)))
}

/// The seconds from 1970 to a date as it is sent today, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7).
/// The two forms that nobody may send any more are not read.
fn seconds_of(date: &[u8]) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let date = std::str::from_utf8(date).ok()?;
    let mut words = date.split_once(", ")?.1.split(' ');
    let day = number(words.next()?, 2, 1..=31)?;
    let month = words.next()?;
    let month = (1..).zip(MONTHS).find(|(_, name)| *name == month)?.0;
    let year = number(words.next()?, 4, 1970..=9999)?;
    let mut clock = words.next()?.split(':');
    let hour = number(clock.next()?, 2, 0..=23)?;
    let minute = number(clock.next()?, 2, 0..=59)?;
    // A leap second.
    let second = number(clock.next()?, 2, 0..=60)?;
    let ends = words.next() == Some("GMT") && words.next().is_none() && clock.next().is_none();
    ends.then(|| ((days_to(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &str, length: usize, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
    let is_plain = digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| is_plain && range.contains(number))
}

/// The days from 1 January 1970 to a day of the Gregorian calendar, 1970 or later.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March end with the leap day; from 1 March of year 0 to 1970 it is 719,468 days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    (365 * year + leap_days + (153 * month + 2) / 5 + day - 1) - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(status: u16, headers: &[(&'static str, &'static str)]) -> Option<u64> {
        let headers: Vec<_> =
            headers.iter().map(|&(name, value)| Header { name, value: value.as_bytes() }).collect();
        retry_after(status, &headers).map(|asked| asked.as_secs())
    }

    #[test]
    fn seconds_count_from_now_and_up_to_an_hour() {
        for (value, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("3601", Some(3600)),
            ("99999999999999999999999999", Some(3600)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(asked(503, &[("retry-after", value)]), expected, "{value}");
            assert_eq!(asked(429, &[("Retry-After", value)]), expected, "{value}");
        }
        assert_eq!(asked(502, &[("Retry-After", "5")]), None, "it means nothing there");
        assert_eq!(asked(503, &[("Retry-After", "5"), ("Retry-After", "6")]), None, "which one?");
        assert_eq!(asked(503, &[]), None);
    }

    #[test]
    fn dates_count_from_the_answers_own() {
        let date = ("Date", "Wed, 31 Dec 2025 23:59:30 GMT");
        for (until, expected) in [
            ("Thu, 01 Jan 2026 00:00:00 GMT", Some(30)),
            ("Thu, 01 Jan 2026 12:00:00 GMT", Some(3600)),
            ("Wed, 31 Dec 2025 23:59:30 GMT", Some(0)),
            ("Mon, 01 Dec 2025 00:00:00 GMT", Some(0)),
            ("Thursday, 01-Jan-26 00:00:00 GMT", None),
            ("Thu Jan  1 00:00:00 2026", None),
            ("Thu, 01 Jan 2026 00:00:00 UTC", None),
            ("Thu, 1 Jan 2026 00:00:00 GMT", None),
            ("Thu, 01 Jan 2026 24:00:00 GMT", None),
            ("Thu, 01 Foo 2026 00:00:00 GMT", None),
        ] {
            assert_eq!(asked(503, &[date, ("Retry-After", until)]), expected, "{until}");
            assert_eq!(asked(503, &[("Retry-After", until)]), None, "a clock of our own is not asked");
        }
    }

    #[test]
    fn dates_are_seconds_since_1970() {
        for (date, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Tue, 19 Jan 2038 03:14:08 GMT", 1 << 31),
        ] {
            assert_eq!(seconds_of(date.as_bytes()), Some(expected), "{date}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(value in "[A-Za-z0-9,: é-]{0,40}", status in 0_u16..1000) {
            let headers = [
                Header { name: "Retry-After", value: value.as_bytes() },
                Header { name: "Date", value: value.as_bytes() },
            ];
            let _ = (retry_after(status, &headers), seconds_of(value.as_bytes()));
        }
    }
}
