//! Who holds which rows: by category, iid, Dirichlet-skewed, or by explicit sizes.

use consilium_core::SeededRng;

use crate::error::nearest;
use crate::{DataError, Example, permutation};

/// How examples are shared out to sites.
#[derive(Clone, Debug, PartialEq)]
pub enum Partition {
    /// One site for each category; rows keep their order.
    ByCategory,
    /// Shuffled and dealt in equal parts, which differ by one row at most.
    Iid {
        /// Number of sites.
        sites: usize,
    },
    /// Every category is shared out in proportions drawn from Dirichlet(alpha): the smaller alpha, the more a site
    /// specialises (Hsu, Qi and Brown 2019).
    Dirichlet {
        /// Number of sites.
        sites: usize,
        /// Concentration, above 0; 0.1 is strong skew, 100 nearly iid.
        alpha: f64,
    },
    /// Shuffled and cut into parts of these sizes; what is left over goes to nobody.
    Sizes(Vec<usize>),
}

/// The rows of one site.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Name of the site.
    pub site: String,
    /// Its rows.
    pub examples: Vec<Example>,
}

/// Shares `examples` out.
///
/// `sites` names the sites. By category it chooses the categories and their order (`None`: all, in byte order); otherwise
/// it must name as many sites as the partition has (`None`: `site-1`, `site-2`, ...). The result depends on nothing but
/// the arguments; shuffles are [`permutation`]s, proportions come from the stream `(seed, "dirichlet partition")`.
///
/// # Errors
/// When a named category has no row, sizes exceed the rows, a number makes no sense, or a site would stay empty.
pub fn partition(
    examples: Vec<Example>,
    how: &Partition,
    sites: Option<&[String]>,
    seed: u64,
) -> Result<Vec<Shard>, DataError> {
    let rows = examples.len();
    let refuse = |reason: String| DataError::Partition { rows, reason };
    let parts = match how {
        Partition::ByCategory => return by_category(examples, sites),
        Partition::Iid { sites } => cut(&permutation(seed, rows), &equal_sizes(rows, *sites)),
        Partition::Dirichlet { sites, alpha } => {
            if !(alpha.is_finite() && *alpha > 0.0) {
                return Err(refuse(format!("alpha must be above 0, not {alpha}")));
            }
            dirichlet(&examples, *sites, *alpha, seed)
        }
        Partition::Sizes(sizes) => {
            let wanted: usize = sizes.iter().sum();
            if wanted > rows {
                return Err(refuse(format!("the sizes add up to {wanted}")));
            }
            cut(&permutation(seed, rows), sizes)
        }
    };
    let names = site_names(parts.len(), sites).map_err(refuse)?;
    if let Some(empty) = parts.iter().position(Vec::is_empty) {
        return Err(refuse(format!("site `{}` would have no row", names[empty])));
    }
    let mut slots: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
    let take = |part: Vec<usize>| part.into_iter().filter_map(|index| slots[index].take()).collect();
    let examples: Vec<Vec<Example>> = parts.into_iter().map(take).collect();
    Ok(names.into_iter().zip(examples).map(|(site, examples)| Shard { site, examples }).collect())
}

fn site_names(count: usize, given: Option<&[String]>) -> Result<Vec<String>, String> {
    if count == 0 {
        return Err("at least one site is needed".to_string());
    }
    let Some(given) = given else {
        return Ok((1..=count).map(|number| format!("site-{number}")).collect());
    };
    if given.len() != count {
        return Err(format!("{} site names for {count} sites", given.len()));
    }
    if let Some(name) = repeated(given) {
        return Err(format!("site `{name}` is named twice"));
    }
    Ok(given.to_vec())
}

fn repeated(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)).map(|(_, name)| name)
}

fn by_category(examples: Vec<Example>, sites: Option<&[String]>) -> Result<Vec<Shard>, DataError> {
    let rows = examples.len();
    let mut shards: std::collections::BTreeMap<String, Vec<Example>> = std::collections::BTreeMap::new();
    for example in examples {
        if !example.category.is_empty() {
            shards.entry(example.category.clone()).or_default().push(example);
        }
    }
    if shards.is_empty() {
        return Err(DataError::Partition { rows, reason: "no row has a category".to_string() });
    }
    let names: Vec<String> = sites.map_or_else(|| shards.keys().cloned().collect(), <[String]>::to_vec);
    if names.is_empty() {
        return Err(DataError::Partition { rows, reason: "at least one site is needed".to_string() });
    }
    if let Some(name) = repeated(&names) {
        return Err(DataError::Partition { rows, reason: format!("site `{name}` is named twice") });
    }
    let categories: Vec<String> = shards.keys().cloned().collect();
    names
        .into_iter()
        .map(|site| match shards.remove(&site) {
            Some(examples) => Ok(Shard { site, examples }),
            None => Err(DataError::NoSuchSite {
                nearest: nearest(&site, categories.iter().map(String::as_str)),
                site,
                categories: categories.clone(),
            }),
        })
        .collect()
}

/// `sites` sizes that add up to `rows`, the larger ones first.
fn equal_sizes(rows: usize, sites: usize) -> Vec<usize> {
    (0..sites).map(|site| rows / sites + usize::from(site < rows % sites)).collect()
}

fn cut(order: &[usize], sizes: &[usize]) -> Vec<Vec<usize>> {
    let mut rest = order;
    sizes
        .iter()
        .map(|&size| {
            let (part, later) = rest.split_at(size);
            rest = later;
            part.to_vec()
        })
        .collect()
}

/// Draws until no site is empty, at most [`DIRICHLET_TRIES`] times, since a strong skew easily starves one.
fn dirichlet(examples: &[Example], sites: usize, alpha: f64, seed: u64) -> Vec<Vec<usize>> {
    const DIRICHLET_TRIES: usize = 100;
    let mut categories: std::collections::BTreeMap<&str, Vec<usize>> = std::collections::BTreeMap::new();
    for index in permutation(seed, examples.len()) {
        categories.entry(&examples[index].category).or_default().push(index);
    }
    let mut rng = SeededRng::derive(seed, 0, "", "dirichlet partition");
    let mut parts = vec![Vec::new(); sites];
    for _ in 0..DIRICHLET_TRIES {
        parts = vec![Vec::new(); sites];
        for rows in categories.values() {
            let draws: Vec<f64> = (0..sites).map(|_| gamma(alpha, &mut rng)).collect();
            for (part, piece) in parts.iter_mut().zip(cut(rows, &proportional_sizes(rows.len(), &draws))) {
                part.extend(piece);
            }
        }
        if parts.iter().all(|part: &Vec<usize>| !part.is_empty()) {
            break;
        }
    }
    parts
}

/// Sizes in proportion to `draws` that add up to `rows`: cumulative shares, rounded, so that no row is lost.
fn proportional_sizes(rows: usize, draws: &[f64]) -> Vec<usize> {
    let total: f64 = draws.iter().sum();
    let (mut share, mut before) = (0.0, 0);
    let mut sizes: Vec<usize> = draws
        .iter()
        .map(|draw| {
            share += draw;
            let until = ((share / total * rows as f64).round() as usize).clamp(before, rows);
            let size = until - before;
            before = until;
            size
        })
        .collect();
    if let Some(last) = sizes.last_mut() {
        *last += rows - before;
    }
    sizes
}

/// Gamma(alpha, 1) by Marsaglia and Tsang (2000); below 1 by their power-of-a-uniform boost.
fn gamma(alpha: f64, rng: &mut SeededRng) -> f64 {
    if alpha < 1.0 {
        let boost = (1.0 - rng.uniform_f64()).powf(1.0 / alpha);
        // A tiny alpha underflows to 0, which would leave 0/0 when every site draws it.
        return (gamma(alpha + 1.0, rng) * boost).max(f64::MIN_POSITIVE);
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = rng.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - rng.uniform_f64();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(categories: &[(&str, usize)]) -> Vec<Example> {
        let mut rows = Vec::new();
        for (category, count) in categories {
            for number in 0..*count {
                rows.push(Example {
                    id: format!("{category}{number}"),
                    question: "q".to_string(),
                    answer: "a".to_string(),
                    category: (*category).to_string(),
                });
            }
        }
        rows
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_string()).collect()
    }

    fn sorted_ids(shards: &[Shard]) -> Vec<String> {
        let mut ids: Vec<String> =
            shards.iter().flat_map(|shard| &shard.examples).map(|row| row.id.clone()).collect();
        ids.sort();
        ids
    }

    #[test]
    fn categories_become_sites_in_the_order_asked() {
        let all = partition(rows(&[("b", 2), ("a", 1), ("", 3)]), &Partition::ByCategory, None, 0).unwrap();
        assert_eq!(all.iter().map(|shard| shard.site.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let asked = names(&["b"]);
        let one = partition(rows(&[("b", 2), ("a", 1)]), &Partition::ByCategory, Some(&asked), 0).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0].examples.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["b0", "b1"]);
    }

    #[test]
    fn an_unknown_category_is_refused_with_the_known_ones() {
        let error = partition(rows(&[("alpha", 1)]), &Partition::ByCategory, Some(&names(&["Alpah"])), 0)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no row has category `Alpah`; categories: alpha. Did you mean `alpha`?".to_string()
        );
    }

    #[test]
    fn iid_deals_every_row_once_in_nearly_equal_parts() {
        let examples = rows(&[("a", 11)]);
        let shards = partition(examples.clone(), &Partition::Iid { sites: 3 }, None, 7).unwrap();
        assert_eq!(shards.iter().map(|shard| shard.examples.len()).collect::<Vec<_>>(), [4, 4, 3]);
        assert_eq!(shards[2].site, "site-3");
        assert_eq!(shards[0].examples[0], examples[permutation(7, 11)[0]]);
        let mut expected: Vec<String> = examples.into_iter().map(|row| row.id).collect();
        expected.sort();
        assert_eq!(sorted_ids(&shards), expected);
    }

    #[test]
    fn dirichlet_keeps_every_row_and_skews_with_a_small_alpha() {
        let examples = rows(&[("a", 100), ("b", 100), ("c", 100)]);
        let share_of_largest_category = |alpha: f64| -> f64 {
            let shards =
                partition(examples.clone(), &Partition::Dirichlet { sites: 4, alpha }, None, 3).unwrap();
            assert_eq!(sorted_ids(&shards).len(), 300);
            let largest = |shard: &Shard| {
                let count = |name: &str| shard.examples.iter().filter(|row| row.category == name).count();
                ["a", "b", "c"].map(count).into_iter().max().unwrap_or(0) as f64 / shard.examples.len() as f64
            };
            shards.iter().map(largest).sum::<f64>() / shards.len() as f64
        };
        assert!(share_of_largest_category(1000.0) < 0.45);
        assert!(share_of_largest_category(0.05) > 0.7);
    }

    #[test]
    fn gamma_has_its_mean_and_variance() {
        for alpha in [0.3, 1.0, 4.5] {
            let mut rng = SeededRng::derive(1, 0, "", "gamma test");
            let draws: Vec<f64> = (0..20_000).map(|_| gamma(alpha, &mut rng)).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!((mean / alpha - 1.0).abs() < 0.05, "mean {mean} of Gamma({alpha})");
            assert!((variance / alpha - 1.0).abs() < 0.12, "variance {variance} of Gamma({alpha})");
        }
    }

    #[test]
    fn impossible_partitions_are_refused_with_their_numbers() {
        let refused = |how: Partition, sites: Option<&[String]>| {
            partition(rows(&[("a", 3)]), &how, sites, 0).unwrap_err().to_string()
        };
        assert_eq!(
            refused(Partition::Sizes(vec![2, 2]), None),
            "cannot partition 3 rows: the sizes add up to 4"
        );
        assert!(refused(Partition::Iid { sites: 4 }, None).ends_with("site `site-4` would have no row"));
        assert!(refused(Partition::Iid { sites: 0 }, None).ends_with("at least one site is needed"));
        assert!(
            refused(Partition::Iid { sites: 2 }, Some(&names(&["x"]))).ends_with("1 site names for 2 sites")
        );
        assert!(
            refused(Partition::Dirichlet { sites: 2, alpha: 0.0 }, None).contains("alpha must be above 0")
        );
        let twice = names(&["a", "a"]);
        assert!(refused(Partition::ByCategory, Some(&twice)).contains("named twice"));
    }
}
