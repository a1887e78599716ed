//! The best small set of tokens, where each token stands for the units in which it occurs.
//!
//! F1 is a ratio, (N₀ + Σ numerator) / (D₀ + Σ denominator) over the units that the chosen tokens
//! cover. Dinkelbach's iteration maximises a ratio F by maximising the sum of `numerator − F ·
//! denominator` for the last F until F stops rising. For tokens that never share a unit the inner
//! step is exact (take every positive gain, the largest `limit` of them), which is the known
//! threshold at F/2 on a token's precision; where they share units it is the greedy cover, then
//! the removal of what later choices made superfluous.

/// A token and the units that it covers, each once.
#[derive(Debug)]
pub(super) struct Item {
    pub token: u32,
    pub units: Vec<u32>,
    /// Mean number of its units in a document that has any.
    pub per_document: f64,
}

/// What covering a unit adds to the numerator and the denominator of F1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub numerator: f64,
    pub denominator: f64,
}

/// What the choice is made by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// Numerator and denominator before anything is covered.
    pub start: Value,
    /// A unit that speaks against an item; each item is charged `caution` documents of it, so that
    /// a token seen once does not get in for free.
    pub adverse: Value,
    pub caution: f64,
    /// What an item must add to F1.
    pub least: f64,
    pub limit: usize,
}

/// The chosen items in the order of choice, and the ratio that they reach with caution charged.
pub(super) fn cover(items: &[Item], values: &[Value], aim: &Aim) -> (Vec<usize>, f64) {
    let costs: Vec<Value> = items
        .iter()
        .map(|item| {
            let units = aim.caution * item.per_document;
            Value {
                numerator: units * aim.adverse.numerator,
                denominator: units * aim.adverse.denominator,
            }
        })
        .collect();
    let by_unit = ItemsOfUnits::new(items, values.len());
    let mut best = (Vec::new(), ratio(aim.start));
    for round in 0..32 {
        let f = if round == 0 {
            0.0_f64.max(best.1)
        } else {
            best.1
        };
        let chosen = greedy(items, values, &costs, &by_unit, aim, f);
        let chosen = without_superfluous(items, values, &costs, aim, f, chosen);
        let reached = ratio(total(items, values, &costs, aim, &chosen));
        if reached <= best.1 + 1e-12 {
            break;
        }
        best = (chosen, reached);
    }
    best
}

fn ratio(value: Value) -> f64 {
    if value.denominator > 0.0 {
        value.numerator / value.denominator
    } else {
        0.0
    }
}

fn gain(value: Value, f: f64) -> f64 {
    value.numerator - f * value.denominator
}

fn add(sum: &mut Value, value: Value, sign: f64) {
    sum.numerator += sign * value.numerator;
    sum.denominator += sign * value.denominator;
}

struct ItemsOfUnits {
    offsets: Vec<usize>,
    items: Vec<u32>,
}

impl ItemsOfUnits {
    fn new(items: &[Item], units: usize) -> Self {
        let mut offsets = vec![0; units + 1];
        for &unit in items.iter().flat_map(|item| &item.units) {
            offsets[unit as usize + 1] += 1;
        }
        for unit in 0..units {
            offsets[unit + 1] += offsets[unit];
        }
        let mut next = offsets.clone();
        let mut of = vec![0; offsets[units]];
        for (i, item) in items.iter().enumerate() {
            for &unit in &item.units {
                of[next[unit as usize]] = i as u32;
                next[unit as usize] += 1;
            }
        }
        Self { offsets, items: of }
    }

    fn of(&self, unit: u32) -> &[u32] {
        &self.items[self.offsets[unit as usize]..self.offsets[unit as usize + 1]]
    }
}

/// Takes the item of the largest marginal gain until none is left that pays. Marginals are kept
/// exact: a unit is covered once, and then leaves every item that holds it.
fn greedy(
    items: &[Item],
    values: &[Value],
    costs: &[Value],
    by_unit: &ItemsOfUnits,
    aim: &Aim,
    f: f64,
) -> Vec<usize> {
    let mut left: Vec<Value> = items
        .iter()
        .zip(costs)
        .map(|(item, &cost)| {
            let mut sum = cost;
            for &unit in &item.units {
                add(&mut sum, values[unit as usize], 1.0);
            }
            sum
        })
        .collect();
    let mut covered = vec![false; values.len()];
    let mut taken = vec![false; items.len()];
    let mut chosen = Vec::new();
    let mut sum = aim.start;
    while chosen.len() < aim.limit {
        let next = (0..items.len())
            .filter(|&i| !taken[i])
            .map(|i| (gain(left[i], f), i))
            // The first of equals: items come in a fixed order.
            .fold(None, |best: Option<(f64, usize)>, one| match best {
                Some(old) if old.0 >= one.0 => Some(old),
                _ => Some(one),
            });
        let Some((best, i)) = next else { break };
        let enough = aim.least * (sum.denominator + left[i].denominator).max(0.0);
        if best <= enough {
            break;
        }
        taken[i] = true;
        chosen.push(i);
        add(&mut sum, left[i], 1.0);
        for &unit in &items[i].units {
            if std::mem::replace(&mut covered[unit as usize], true) {
                continue;
            }
            for &other in by_unit.of(unit) {
                add(&mut left[other as usize], values[unit as usize], -1.0);
            }
        }
    }
    chosen
}

fn without_superfluous(
    items: &[Item],
    values: &[Value],
    costs: &[Value],
    aim: &Aim,
    f: f64,
    mut chosen: Vec<usize>,
) -> Vec<usize> {
    let mut times = vec![0_u32; values.len()];
    let mut sum = total(items, values, costs, aim, &chosen);
    for &i in &chosen {
        for &unit in &items[i].units {
            times[unit as usize] += 1;
        }
    }
    let mut at = 0;
    while at < chosen.len() && chosen.len() > 1 {
        let item = &items[chosen[at]];
        let mut alone = costs[chosen[at]];
        for &unit in &item.units {
            if times[unit as usize] == 1 {
                add(&mut alone, values[unit as usize], 1.0);
            }
        }
        if gain(alone, f) > aim.least * sum.denominator.max(0.0) {
            at += 1;
            continue;
        }
        add(&mut sum, alone, -1.0);
        for &unit in &item.units {
            times[unit as usize] -= 1;
        }
        chosen.remove(at);
        at = 0;
    }
    chosen
}

fn total(items: &[Item], values: &[Value], costs: &[Value], aim: &Aim, chosen: &[usize]) -> Value {
    let mut covered = vec![false; values.len()];
    let mut sum = aim.start;
    for &i in chosen {
        add(&mut sum, costs[i], 1.0);
        for &unit in &items[i].units {
            if !std::mem::replace(&mut covered[unit as usize], true) {
                add(&mut sum, values[unit as usize], 1.0);
            }
        }
    }
    sum
}
