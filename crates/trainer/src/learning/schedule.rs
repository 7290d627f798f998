//! How the learning rate moves.

use burn::optim::LearningRate;
use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::config::{ScheduleConfig, ScheduleKind};

/// Linear warm-up, then constant or half a cosine.
///
/// Burn's cosine rises again past its last step; this one stays down (Loshchilov and Hutter 2017
/// without restarts, <https://arxiv.org/abs/1608.03983>).
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    warmup: u64,
    floor: f64,
    total: u64,
    step: u64,
    factor: f64,
}

impl Schedule {
    /// A schedule over `total` steps with its height at `peak`.
    pub fn new(config: &ScheduleConfig, peak: f64, total: u64) -> Self {
        let ScheduleConfig { kind, warmup, floor } = *config;
        Self { kind, peak, warmup, floor, total, step: 0, factor: 1.0 }
    }

    /// The same schedule with `step` steps behind it, every rate to come times `factor`.
    pub fn at(&self, step: u64, factor: f64) -> Self {
        Self { step, factor, ..self.clone() }
    }

    /// The learning rate of the step with this index, from 0, before any factor.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Cosine => {
                let span = self.total.saturating_sub(self.warmup + 1).max(1) as f64;
                let done = ((step - self.warmup) as f64 / span).min(1.0);
                let height = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
                self.peak * (self.floor + (1.0 - self.floor) * height)
            }
        }
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> LearningRate {
        let rate = self.rate(self.step) * self.factor;
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar("step", self.step).with_scalar("factor", self.factor)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        self.step = record.scalar("step").expect("the record is one of this schedule");
        self.factor = record.scalar("factor").expect("the record is one of this schedule");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(warmup: u64) -> Schedule {
        let config = ScheduleConfig { kind: ScheduleKind::Cosine, warmup, floor: 0.1 };
        Schedule::new(&config, 2.0, 100)
    }

    #[test]
    fn it_warms_up_falls_and_stays_down() {
        let schedule = cosine(10);
        assert!((schedule.rate(0) - 0.2).abs() < 1e-12);
        assert_eq!(schedule.rate(9), 2.0);
        assert_eq!(schedule.rate(10), 2.0);
        assert!((schedule.rate(99) - 0.2).abs() < 1e-12, "{}", schedule.rate(99));
        assert_eq!(schedule.rate(100), schedule.rate(99));
        assert_eq!(schedule.rate(1_000), schedule.rate(99));
        let rates: Vec<f64> = (10..100).map(|step| schedule.rate(step)).collect();
        assert!(rates.windows(2).all(|pair| pair[0] > pair[1]), "it only falls");
    }

    #[test]
    fn a_record_brings_it_back_to_its_place() {
        let mut schedule = cosine(0);
        (0..7).for_each(|_| {
            LrScheduler::step(&mut schedule);
        });
        let mut other = cosine(0);
        other.load_record(schedule.to_record());
        assert_eq!(LrScheduler::step(&mut other), schedule.rate(7));
        let mut halved = schedule.at(7, 0.5);
        assert_eq!(LrScheduler::step(&mut halved), schedule.rate(7) / 2.0);
    }
}
