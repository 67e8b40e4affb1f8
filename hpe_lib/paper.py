"""What the paper says: the numbers that several notebooks need, and how we read it where it is silent."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # the checkout
INSTALLED = Path(__file__).resolve().parent / "notebooks"  # there only outside a checkout
NOTEBOOKS = INSTALLED if INSTALLED.is_dir() else ROOT / "notebooks"
N_JOINTS = 16  # N of eq. 1 and 2, also where fewer joints are annotated (F3)
MARGIN = (
    1.25  # side of the square that the network sees / height of the person standing upright (F1)
)
BODY = 200.0  # px: the body size in which §3 gives the disc's radius (10 px) and we read the Gaussian's sigma (5 px)

# Where the paper is silent, contradicts itself or cannot be taken literally. The notebooks show the rows they meet.
READING = [
    {
        "id": "F1",
        "topic": "frames",
        "paper": "Crops centred on the person; 256×256 px (Res). Disc radius 10 px for an upright body of 200 px; "
        "Gaussian σ 5 px, for no body size named.",
        "we_do": "A frame is centre, side and crop size, and says how tall the upright body is in the crop: radius = "
        "body / 20, σ = body / 40. LSPET: centre of the annotated joints' box, side 187.5 px, body 150 px. "
        "Synthetic: known from the drawing.",
        "why": "Only relative to the body does one number fit every crop size and every data set.",
        "cost": "A centre made from the joints is a hint from the truth, as objpos is on MPII: said beside the scores.",
    },
    {
        "id": "F2",
        "topic": "visible only",
        "paper": "The detector is trained with visible parts only.",
        "we_do": "Visible: a disc. Occluded: an empty map that counts in the loss. The other reading, leaving occluded "
        'joints out of the loss, is occluded = "ignored".',
        "why": "Fig. 2 wants low confidence at occluded parts; something has to teach it.",
        "cost": "Without occlusion labels (LSPET) every annotated joint counts as visible.",
    },
    {
        "id": "F3",
        "topic": "losses",
        "paper": "Eq. 1 lacks its minus sign; §3 once says softmax, eq. 1 is a sigmoid's; sums over pixels.",
        "we_do": "Cross-entropy on sigmoids and squared error, summed over pixels, divided by 16 always, averaged over "
        "the batch. Joints not annotated or outside the crop are out of both.",
        "why": "The printed learning rates mean something only with the printed sums; parts overlap, so no softmax.",
        "cost": "Losses grow with the map's area: compare them only at equal map size.",
    },
    {
        "id": "F4",
        "topic": "detector",
        "paper": "Table 3: 38 modules in B4; B5 without its stride; B7 4×4/4 to match the input's resolution.",
        "we_do": "ResNet's own 36 modules; B5 at stride 1, not dilated; B7 as printed brings stride 16 to 4, a fixed "
        "bilinear enlargement the rest. The slim trunk has the same blocks, made for small crops and a CPU.",
        "why": "38 modules could not load ResNet-152's weights; 16 / 4 is not 1.",
        "cost": "The slim trunk starts from random weights, 0.4 M of them instead of 58 M.",
    },
    {
        "id": "F5",
        "topic": "zero initialisation",
        "paper": "Added layers, and all of the regressor but its bilinear deconvolutions, start at zero.",
        "we_do": "Score layers and the last convolution of each residual branch are zero; deconvolutions whose kernel is "
        "their stride start as nearest-neighbour enlargement; the rest He. The detector may begin at a small "
        "probability (prior) instead of one half.",
        "why": "A chain of zero layers passes no gradient to any weight; a bilinear kernel must exceed its stride.",
        "cost": "None to see: the network still begins by claiming nothing anywhere.",
    },
    {
        "id": "F6",
        "topic": "regressor",
        "paper": "Table 4: one hourglass, slightly modified; the layer back to the input's resolution is not printed.",
        "we_do": "Stem at stride 4, then levels of pooling and residual modules, learned 2×2/2 deconvolutions up, 1×1 "
        "convolution, 1×1 score. Width, levels, modules and stem are parameters.",
        "why": "Table 4's numbers with what [19] prints around them; smaller numbers for a CPU.",
        "cost": "A small one has a small share of the printed one's 10.2 M weights; notebook 04 counts them.",
    },
    {
        "id": "F7",
        "topic": "VGG",
        "paper": "Table 1 prints a 7×7 kernel in A6, the text a kernel of 1; C8 of Table 2 enlarges by 4 though no layer "
        'before it strides; "7 to 15" in the text, 9, 13, 13, 15 in Table 2.',
        "we_do": "The tables as printed. A: FCN-8s with the pool3 and pool4 scores of [13], learned 4×4/2 deconvolutions "
        "that begin bilinear, a fixed bilinear from stride 8; dropout after A6 and A7 as in [13]. C: on the "
        "stack's 4×4 means; C8 brings them back. Poolings round up and maps are cut to size, as 380 / 32 is "
        "no whole number.",
        "why": "7×7 is what VGG-16's fc6 is, whose weights it starts from; the text cites [13] for the rest.",
        "cost": "144 M weights; slim_vgg and convolutions as narrow have a few hundred thousand.",
    },
    {
        "id": "F8",
        "topic": "the stack",
        "paper": "Heatmaps stacked with the image in one place, with image or CNN features in another.",
        "we_do": "16 maps + red, green, blue = 19 channels at the input's resolution, sigmoids of a detection network's "
        "logits, a regression network's maps as they are; gradients flow through them in the joint stage. "
        'stacked = "image" or "heatmaps" leaves one of the two out.',
        "why": "Fig. 1 shows the image; the authors' released regressor takes 19 channels.",
        "cost": "-",
    },
    {
        "id": "F9",
        "topic": "recipe",
        "paper": "Detector about 50 epochs, 1e-3 to 2.5e-5, RMSprop; regressor 40, 1e-4 then 2.5e-5, detector frozen; "
        "joint 50; batch 8.",
        "we_do": "Optimizer, rates, schedule and epochs are parameters, and the defaults (AdamW, cosine, a few epochs) "
        "are for two CPU cores. Frozen includes batch-norm statistics.",
        "why": "The printed recipe fine-tunes ImageNet weights for days; from random weights a minute has to count.",
        "cost": "Our scores are not the paper's: other data, size and budget.",
    },
    {
        "id": "F10",
        "topic": "recipe, VGG",
        "paper": "Detector about 20 epochs, 1e-8 to 1e-9; regressor 20, 1e-5 then 1e-6, weights of N(0, 0.01), detector "
        "frozen; joint 10. Batch and momentum are not printed.",
        "we_do": "As printed, SGD with momentum 0.9, batch 8. Narrow convolutions start by He's rule and a zero score "
        "(std = 0).",
        "why": "0.01 fits layers of 10,000 inputs; through narrow ones next to nothing passes.",
        "cost": "The printed rates belong to Caffe's VGG-16, which sees images in 0 to 255, and sums over pixels; with "
        "torchvision's, which sees about -2 to 2, they may be far too small.",
    },
    {
        "id": "F11",
        "topic": "joint stage",
        "paper": "Then both networks are trained jointly.",
        "we_do": "The loss of the first network + that of the second, weight 1 each: eq. 1 + eq. 2.",
        "why": "No weight is named.",
        "cost": "The larger sum leads: eq. 1 counts whole discs, eq. 2 small differences.",
    },
    {
        "id": "F12",
        "topic": "augmentation",
        "paper": "Flip; scale 0.7 to 1.3; rotation ±40°; random for Res, steps for VGG.",
        "we_do": "Uniform, flip half of the time; scale is the person's size in the crop. As printed in notebook 02 and "
        "for LSPET; for drawn people, of whom there is no end, next to none by default (0°, 0.95 to 1.05).",
        "why": "A few epochs on a CPU have no time to learn what augmentation adds.",
        "cost": "Joints that leave the crop leave the loss.",
    },
    {
        "id": "F13",
        "topic": "test time",
        "paper": "Not said. The authors' demo averages with the flipped image and takes the highest cell.",
        "we_do": "Flipped image on; decoder a parameter. The detector is read from its logits and from its disc's "
        "centroid, both reported.",
        "why": "A sigmoid saturates: many cells tie near 1 and the highest one is px away from the middle.",
        "cost": "The flip test doubles the time; notebook 05 measures what both choices buy.",
    },
    {
        "id": "F14",
        "topic": "metrics",
        "paper": "PCKh on MPII, PCK on LSP.",
        "we_do": "A joint is right within 0.5 head size (PCKh@0.5) or 0.2 torso (PCK@0.2, left shoulder to right hip); "
        "pooled over 14 joints; 95 % interval from resampled people.",
        "why": "The official evaluator's rule; other conventions stand beside it, never instead.",
        "cost": "People without an annotated normaliser are left out, and counted aloud.",
    },
    {
        "id": "F15",
        "topic": "ablation",
        "paper": "Table 5: detection + regression, detection only, regression only, regression + regression, the idea "
        "of [16].",
        "we_do": "Values of three arguments: trunk, what the first network learns (first), whether there is a second. A "
        "first network that regresses is taught all parts, one that detects the visible ones; first_sees "
        "exchanges them.",
        "why": "As [16] does. The control that separates the loss from what is seen is first_sees.",
        "cost": "-",
    },
    {
        "id": "F16",
        "topic": "budgets",
        "paper": "Not said for the rows of Table 5.",
        "we_do": "An equal budget is equal optimizer steps per network.",
        "why": "A cascade's second network is trained on top of the first.",
        "cost": "A detection-only row trained for the cascade's total steps is the honest control.",
    },
    {
        "id": "F17",
        "topic": "published tables",
        "paper": "Table 5 is of MPII's validation people, Table 6 of its test people, yet five columns of the residual "
        "row are equal in both; Table 5's residual total lies a point below the mean of its columns.",
        "we_do": "Printed numbers as printed, each table with its people; never one column with ours. Notebook 07 audits.",
        "why": "A total is a mean of columns (LSP) or pooled over joints (MPII); this one is neither.",
        "cost": "Which of the two tables the five columns belong to cannot be told from the paper.",
    },
    {
        "id": "F18",
        "topic": "LSP",
        "paper": "The networks trained on MPII are fine-tuned on LSP's 1,000 training people; of pelvis and thorax, which "
        "LSP lacks, stopping the gradient worked better than made-up points.",
        "we_do": "Presets paper-res-lsp and paper-vgg-lsp: init_from takes the MPII run's weights over, all 16 outputs "
        "stay, LSP's neck is the upper neck. missing_points chooses between the two strategies.",
        "why": "As printed; the authors' released model keeps the 16 outputs.",
        "cost": "Needs a finished run on MPII.",
    },
]
