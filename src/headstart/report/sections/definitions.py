"""What every number of the page means, how it is computed, and which file it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Definition:
    """One entry: `origin` names the file of the run (or comparison) and the entry in it."""

    term: str
    title: str
    text: str
    origin: str
    formula: str = ""
    source: str = ""


_TEST = "predictions/test.npz"


def definitions(tested: bool, many: bool = False) -> list[Definition]:
    """All entries in reading order. `tested`: noise is a test here, not overlapping intervals.
    `many`: images may have several labels."""
    if many:
        own = {entry.term: entry for entry in (*_many(), *_many_answers())}
        others = [e for e in definitions(tested) if e.term not in own]
        return [*own.values(), *others]
    return [
        *_accuracy(tested),
        *_classes(),
        *_comparison(),
        *_probabilities(),
        *_hardships(),
        *_costs(),
    ]


def _accuracy(tested: bool) -> tuple[Definition, ...]:
    noise = (
        "After correction for all pairs, the same test images cannot tell the run's configuration "
        "from that of validation's choice: their difference may be chance (p ≥ 0.05)."
        if tested
        else "The interval of the run overlaps that of the best one, so that their difference may "
        "be chance. This is a cautious rule: a test on the same images can tell more runs apart."
    )
    return (
        Definition(
            "accuracy", "Test accuracy",
            "Share of the test images whose most probable class is the true one. The test images "
            "were read once, after every choice was made. For several seeds, their mean.",
            f"{_TEST}; metrics.json: test.accuracy", "accuracy = right / n",
        ),
        Definition(
            "interval", "95 % interval",
            "Wilson's score interval of that share. It covers the luck of which images are in the "
            "test set. With several seeds it covers their luck too: Wilson's form again, at the "
            "sample size that has the variance of both.",
            f"{_TEST}; metrics.json: test.interval",
            "(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.96",
            "Wilson (1927); Korn and Graubard (1998)",
        ),
        Definition(
            "seeds", "Seeds and deviation",
            "The same recipe trained again from other random numbers: the standard deviation of "
            "their test accuracies, in percentage points.",
            "comparison.json: configurations", "sd = √(Σ(aᵢ − ā)² / (seeds − 1))",
        ),
        Definition(
            "noise", "Within noise", noise, "predictions/test.npz of both runs",
            source="Holm (1979); McNemar (1947)" if tested else "",
        ),
        Definition(
            "group", "Group",
            "Group 1 holds the highest on test and all that cannot be told from it; group 2 is the "
            "same among the rest. A winner is a configuration alone in group 1.",
            "comparison.json: configurations, pairs",
        ),
        Definition(
            "top5", "Top-5",
            "Share of the test images whose true class is among the five most probable; not told "
            "of five classes or fewer, of which it would be 100 %.",
            f"{_TEST}; metrics.json: test.top5",
        ),
        Definition(
            "val", "Val accuracy",
            "Accuracy on images held out from training: the validation images, or, for a solved "
            "head, all of train and validation, each by a head that was fitted to the other folds. "
            "Every choice (penalty, epoch, stopping, best run) was made on them, so it is a little "
            "optimistic.",
            "predictions/val.npz; metrics.json: val.accuracy",
        ),
    )  # fmt: skip


def _classes() -> tuple[Definition, ...]:
    return (
        Definition(
            "f1", "Precision, recall, F1",
            "Of the images given this class, the share that has it; of the images that have it, "
            "the share found; and the harmonic mean of the two. Macro is the plain mean over "
            "classes.",
            f"{_TEST}; metrics.json: test.per_class", "F1 = 2PR / (P + R)",
        ),
        Definition(
            "balanced", "Balanced accuracy",
            "The mean of the classes' recalls: every class counts the same, however many images "
            "it has. Shown beside accuracy where the largest class of the test images has more "
            "than 1.5 times the images of the smallest. Its 95 % interval is Wilson's, at the "
            "sample size that would have the variance of the classes' recalls.",
            f"{_TEST}; metrics.json: test.macro_recall, test.balanced_interval",
            "(1/K) Σₖ hitsₖ / nₖ", "Korn and Graubard (1998)",
        ),
        Definition(
            "majority", "Always answering one class",
            "The accuracy of always answering the most frequent class of the test images, "
            "whatever the image: what a model has to beat.",
            f"{_TEST}; metrics.json: test.majority",
        ),
        Definition(
            "sensitivity", "Sensitivity and specificity",
            "Of two classes one is looked for, the positive class. Sensitivity is its recall, "
            "specificity the recall of the other; both with Wilson's 95 % interval.",
            f"{_TEST}; metrics.json: test.two_classes", source="Wilson (1927)",
        ),
        Definition(
            "roc", "ROC and the area under it",
            "Sensitivity against the share of the other class that is taken for the positive one, "
            "for every threshold on the probability. The area is the chance that an image of the "
            "positive class is given a higher probability than one of the other: 0.5 for guessing.",
            f"{_TEST}; metrics.json: test.two_classes.roc_area", source="Hanley and McNeil (1982)",
        ),
        Definition(
            "threshold", "Threshold between two classes",
            "The least calibrated probability at which an image is answered with the positive "
            "class. If a missed image costs r times a false alarm, 1 / (1 + r) has the least "
            "expected cost.",
            f"{_TEST}; predictions/val.npz chooses", "1 / (1 + r)", "Elkan (2001)",
        ),
        Definition(
            "pr", "Precision-recall and average precision",
            "Of the images taken for the positive class, the share that is of it, against the "
            "share of it that is found, for every threshold. Guessing gives the class's share of "
            "the images.",
            f"{_TEST}; metrics.json: test.two_classes.pr_area", "AP = Σ (Rₖ − Rₖ₋₁) Pₖ",
        ),
    )  # fmt: skip


def _many() -> tuple[Definition, ...]:
    return (
        Definition(
            "mean_ap", "mAP, average precision",
            "With the test images in falling order of a label's score, the mean, over the images "
            "that have the label, of the share of such images up to there. mAP is the plain mean "
            "over the labels that have images. It needs no threshold.",
            "predictions/test.npz; metrics.json: test.mean_ap, test.per_label",
            "AP = Σ (Rₖ − Rₖ₋₁) Pₖ",
        ),
        Definition(
            "interval", "95 % interval",
            "Of mAP and micro F1: from the influence of each test image on the score (the "
            "infinitesimal jackknife), as Wilson's interval at the sample size that would have "
            "their variance. It covers the luck of which images are in the test set, and with "
            "several seeds theirs too.",
            "predictions/test.npz; metrics.json: test.interval",
            source="Jaeckel (1972); Wilson (1927)",
        ),
        Definition(
            "val", "Val mAP",
            "mAP on images held out from training: the validation images, or, for a solved head, "
            "all of train and validation, each by a head that was fitted to the other folds. Every "
            "choice (penalty, epoch, stopping, thresholds, best run) was made on them, so it is a "
            "little optimistic.",
            "predictions/val.npz; metrics.json: val.mean_ap",
        ),
        Definition(
            "threshold", "Threshold",
            "The least probability from which on an image is said to have a label: the one with "
            "the highest F1 on validation. A label with fewer than ten images there takes the one "
            "threshold that is the best for all labels together.",
            "predictions/val.npz; metrics.json: test.per_label",
        ),
    )  # fmt: skip


def _many_answers() -> tuple[Definition, ...]:
    return (
        Definition(
            "micro_f1", "Micro F1",
            "F1 of all yes-or-no answers together, so that frequent labels count more; macro F1 is "
            "the plain mean over the labels.",
            "predictions/test.npz; metrics.json: test.micro_f1", "F1 = 2PR / (P + R)",
        ),
        Definition(
            "all_right", "All labels right",
            "The share of the test images with no label too many and none missing.",
            "predictions/test.npz; metrics.json: test.all_right",
        ),
        Definition(
            "loss", "Log loss",
            "Minus the logarithm of the probability of an image's labels, in nats: the sum of the "
            "binary cross-entropies of all labels, mean over the test images, with the temperature "
            "where there is one.",
            "predictions/test.npz; metrics.json: test.loss (as served), test.plain_loss",
        ),
        Definition(
            "many_loss", "Loss and calibration of several labels",
            "Log loss is summed over the labels of an image, in nats. The Brier score is the "
            "squared distance of each probability from the truth, mean over all of them. The "
            "calibration error is the mean over 15 bins of all probabilities of how far stated "
            "probability and frequency lie apart.",
            "predictions/test.npz; metrics.json: test.loss, test.brier, test.ece",
        ),
        Definition(
            "pairs", "Paired difference",
            "The row's mAP minus the column's, in percentage points, on the same images, from the "
            "images' influences on both. One model each: a permutation test. With seeds: a t-test "
            "with images and seeds as samples. p is corrected for all pairs.",
            "comparison.json: pairs", source="Fisher (1935); Holm (1979)",
        ),
    )  # fmt: skip


def _comparison() -> tuple[Definition, ...]:
    return (
        Definition(
            "pairs", "Paired difference",
            "The row's accuracy minus the column's, in percentage points, on the same images: "
            "images that both get right or wrong cancel. One model each: exact McNemar test. With "
            "seeds: a t-test with images and seeds as samples. p is corrected for all pairs.",
            "comparison.json: pairs", "Δ = (only row right − only column right) / n",
            "McNemar (1947); Satterthwaite (1946); Holm (1979)",
        ),
        Definition(
            "detectable", "Smallest difference that would show",
            "A true difference of this size would be found in four of five such comparisons; "
            "smaller ones mostly stay hidden in chance, whether or not they exist.",
            "comparison.json: detectable", "80 % power at the 5 % level",
        ),
        Definition(
            "change", "Change and its interval",
            "The second run's accuracy minus the first's, in percentage points, on the same "
            "images: images that both get right or wrong cancel. Like the others, its 95 % "
            "interval covers the luck of the images, not of the seed.",
            "predictions/test.npz of both runs", source="Bonett and Price (2012)",
        ),
        Definition(
            "selection", "Selection under a budget",
            "Candidates are judged by evidence that gets dearer from round to round, and only the "
            "best go on. Regret is what the choice falls short of the best candidate, where all "
            "were trained in the end.",
            "comparison.json: selection",
        ),
        Definition(
            "duplicates", "Without duplicates",
            "Accuracy after leaving out the test images that are copies or near copies of training "
            "images: those of a shipped list for CIFAR, found by a search in a folder.",
            f"{_TEST}; metrics.json: test.without_duplicates",
        ),
    )  # fmt: skip


def _probabilities() -> tuple[Definition, ...]:
    return (
        Definition(
            "loss", "Log loss",
            "Mean cross-entropy on test, in nats, without any penalty term: it also counts how "
            "sure the model was, with its temperature where it has one. Lower is better; 0 is "
            "perfect.",
            f"{_TEST}; metrics.json: test.loss (as served), test.calibration.loss (as trained)",
            "−(1/n) Σ log p(true class)",
        ),
        Definition(
            "brier", "Brier score",
            "Squared distance of the stated probabilities from the truth, summed over classes, "
            "mean over images. 0 is perfect, 2 the worst.",
            f"{_TEST}; metrics.json: test.brier (as served)", "(1/n) Σᵢ Σₖ (pᵢₖ − yᵢₖ)²",
            "Brier (1950)",
        ),
        Definition(
            "ece", "Calibration error",
            "How far stated confidence and accuracy lie apart: the mean over 15 bins of "
            "confidence, weighted by their images. Of answers said with 90 %, nine in ten should "
            "be right. On few images it is above 0 even for a perfect model. The drawings have "
            "fewer bins, of equal number.",
            f"{_TEST}; metrics.json: test.calibration (as trained), test.calibrated (as served)",
            "ECE = Σ (n_b / n) |accuracy_b − confidence_b|", "Guo et al. (2017)",
        ),
        Definition(
            "temperature", "Temperature",
            "The number that logits are divided by before they become probabilities, chosen on the "
            "same held-out images as val accuracy for the least log loss. Above 1 the model was "
            "too sure. It changes no answer, only how sure it is. It stays 1 where no other helps "
            "left-out images beyond chance.",
            "predictions/val.npz; metrics.json: temperature", "p = softmax(logits / T)",
            "Guo et al. (2017)",
        ),
    )  # fmt: skip


def _hardships() -> tuple[Definition, ...]:
    return (
        Definition(
            "learning", "Label efficiency",
            "Test accuracy of a linear head on frozen features when only so many labelled images "
            "a class are given: mean over random draws, the tint from the worst to the best draw.",
            "metrics.json: label_efficiency",
        ),
        Definition(
            "folds", "Folds",
            "Accuracy over all labelled images: each is predicted by a linear head that was fitted "
            "to the other folds, on frozen features, and the folds are drawn anew a few times. "
            "The interval allows for folds that share most of their images.",
            "metrics.json: folds", source="cross-validation, Stone (1974)",
        ),
        Definition(
            "corruptions", "Corrupted images",
            "Accuracy on test images that were changed: noise, blur and the like, at rising "
            "severity. The model was not trained on them, and severity 0 is the same images clean.",
            "predictions/corrupted.npz; metrics.json: corruptions",
            source="after Hendrycks and Dietterich (2019)",
        ),
        Definition(
            "saliency", "What the answer rests on",
            "A map over the image of what raised the score of the class that was answered. It "
            "shows where the network looked, not why, and a plausible map proves nothing.",
            "pictures.npz: saliency_*",
        ),
        Definition(
            "map", "Feature map",
            "The network's last features of the test images, brought to two dimensions. "
            "Neighbours are alike to the network; distances between far groups and the axes "
            "themselves mean nothing.",
            "feature_map.npz",
        ),
    )  # fmt: skip


def _costs() -> tuple[Definition, ...]:
    return (
        Definition(
            "training", "Training time",
            "Seconds of frozen passes and of training on the machine named above, as they are with "
            "an empty cache: where a run found features that another one had computed, what these "
            "took then is added. So runs can be compared in whatever order they were made. "
            "Downloads and evaluation are left out.",
            "cost.json: alone_s; as spent: wall_s, extract_s, train_s; spared: spared_s",
        ),
        Definition(
            "rate", "Images/s in training",
            "Images a second through the backbone from their pixels: in the frozen passes, or in "
            "training where there are none.",
            "cost.json: images_per_s",
        ),
        Definition(
            "latency", "Latency",
            "Time to classify a single image from its stored pixels, in milliseconds: the median "
            "over rounds in which the models take turns, with its 95 % interval, and the 95th "
            "percentile of all calls; copies of one network are timed as one. Latencies are told "
            "apart by their intervals and from about a tenth on. “~”: the machine was too busy, "
            "and such times are not compared.",
            "cost.json: latency_ms, measured",
        ),
        Definition(
            "throughput", "Throughput",
            "Images classified a second when they come in batches.", "cost.json: throughput",
        ),
        Definition(
            "parameters", "Parameters",
            "Numbers in the adapted model, backbone and head, trained or not.",
            "cost.json: parameters",
        ),
        Definition(
            "macs", "MACs",
            "Multiply-accumulate operations to classify a single image at the run's image size.",
            "cost.json: macs",
        ),
        Definition(
            "size", "Model file",
            "The adapted model as a file, or its parameters in float32 where no file was measured.",
            "cost.json: file_mb, size_mb",
        ),
        Definition(
            "serving", "Serving memory",
            "Largest resident memory of a process that does nothing but load the model and "
            "classify.",
            "cost.json: serving_rss_mb",
        ),
        Definition(
            "memory", "Memory of the run",
            "Largest resident memory of the process during the run, training included.",
            "cost.json: peak_rss_mb",
        ),
    )  # fmt: skip
