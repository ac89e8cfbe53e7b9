//! The day of the calendar that a second belongs to, for the two places that write one: an answer, and a line of the
//! log.

/// A day of the Gregorian calendar.
pub struct Date {
    /// In full: 1970 and later.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
}

impl Date {
    /// The day so many days after 1970-01-01. Years are counted from March, so that the day that leaps comes last.
    /// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    #[must_use]
    pub fn of(days: u64) -> Self {
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
        Self { year: era * 400 + year + u64::from(month <= 2), month, day }
    }
}
