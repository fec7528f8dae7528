"""Gated against standard sparse autoencoders on the language model that ships with gsae: the front door.

    python -m gsae.main --config=experiments/pareto_sweep.py

takes three to five minutes on 2 cores (on two machines train 151 and 247 s, evaluate 13 and 26, harvest 11 and 16) and
0.4 GB of disk. It trains 4 gated autoencoders of 256 features and 4 standard ones of 384 (0.117 and 0.126 GFLOP a
step each) on the attention outputs before W_O of layer 1 (`attn_z.1`, the paper's attention site), 5.2 million rows in
four epochs, and ends with the ratio of their L0 at equal loss recovered; expect 2.36, 2.20, 2.08 and 2.18 at .80, .85,
.90 and .95 (median 2.19; 2.16, 2.27 and 2.14 with seeds 1 to 3, of data and initialisation), gated gamma 1.00 to 1.01,
standard gamma from .65 to .95, at least 96 % of the gated features alive.

The learning rates were tried on held-out tokens that the result is not measured on (`evaluation.skip_tokens`), other
settings as here but 25,600 steps. L0 on each rate's own frontier at four values of loss recovered, and the least share
of features alive; gated at 0.05, 0.2, 0.5 and 1.2, standard at 0.04, 0.12, 0.3 and 0.65, seed 0:

    gated      .80    .85    .90    .95   alive       standard   .80    .85    .90    .95   alive
    2e-3      1.66   2.53   3.86   8.99   98 %        2e-3      3.83   5.51   8.33   20.6   100 %
    4e-3      1.72   2.54   3.75   8.68   96 %        4e-3      3.72   5.33   8.32   19.9   100 %
    8e-3      1.79   2.53   3.56   8.39   76 %        8e-3      3.38   4.89   7.74   18.1    88 %
    1.6e-2    one point, .9487 / 7.51:    78 %        1.6e-2    0.6 is unstable    11.5   21.0    83 %

(at 1.6e-2 with 20,480 steps and coefficients as here; gated at 0.3 only). Standard takes the best of these; gated takes
4e-3, because 8e-3, which needs 0 to 5 % fewer active features from .85 on, loses a quarter of the sparsest point's.
Both have converged: from 25,600 steps to 51,200 (gated at 0.9, not 1.05) no L0 moves by more than 2.2 % and no loss
recovered by more than .007.
Sites, widths and schedules were looked at before on tokens of the result. Shorter runs flatter gated: at 6400 steps of
512 rows with a cosine decay and twice the features the ratio was 2.6 to 2.8, but twice the steps still moved L0 by 6 to
38 %.

Every setting there is stands in this file; override any of them on the command line (`--config.sae.width=4096`), or
copy the file. Sizes are counted in rows (one activation vector each), tokens, steps or bytes, as each comment says.
Durations are strings: "200 steps", "1_000_000 tokens", or "5%" of the run.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Every setting, its default for the front-door experiment, and its unit."""
    config = ConfigDict()
    config.seed = 0  # order of the data, and everything else drawn at random but a point's own initialisation

    # Devices along each axis. 0: chosen so that all devices are used and a step is fastest; -1 (for one): all left.
    config.mesh = ConfigDict()
    config.mesh.sweep = 0  # members of the sweep side by side
    config.mesh.data = 0  # parts of the batch
    config.mesh.feature = 0  # parts of the dictionary

    config.processes = ConfigDict()  # several processes that are one run, on one machine or many
    # "auto": as the launcher says by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or Slurm, Open MPI,
    # GKE, Cloud TPU by their own variables; without one there is one process
    config.processes.coordinator = "auto"  # | "none": one process, whatever a launcher says | host:port of the first
    config.processes.count = 0  # how many; 0: as the launcher says
    config.processes.index = -1  # which one this is, from 0; -1: as the launcher says
    config.processes.start_timeout = 300.0  # seconds within which all must have come
    config.processes.heartbeat_timeout = 100.0  # seconds; who is not heard of for so long counts as dead, and all end

    config.language_model = ConfigDict()
    # "bundled", a directory, or a hub id such as "EleutherAI/pythia-70m"; "" for none, with rows from elsewhere
    config.language_model.name = "bundled"
    config.language_model.revision = "main"  # of a hub id: branch, tag or commit; the workdir keeps the commit it meant
    config.language_model.dtype = "float32"  # parameters and pass: | "bfloat16" | "float16" | "file": as in the file
    config.language_model.parts = 1  # devices that share one copy of its parameters, where one cannot hold them

    config.text = ConfigDict()
    config.text.source = "python_standard_library"  # | "files" | "hugging_face"
    config.text.paths = ()  # source "files": txt, jsonl, parquet and arrow files, directories, globs
    config.text.name = ""  # source "hugging_face": a data set's hub id, or a directory that `datasets` reads
    config.text.revision = "main"  # source "hugging_face": branch, tag or commit of the hub id
    config.text.configuration = ""  # source "hugging_face": its configuration; "" for none
    config.text.split = "train"  # source "hugging_face": its split
    config.text.content = "text"  # of the column: | "token_ids" | "chat": messages, by the model's chat template
    config.text.column = "text"  # the column of parquet, arrow and data sets, the field of jsonl
    config.text.streaming = True  # source "hugging_face": read as a stream instead of downloading all of it
    config.text.shuffle_buffer = 0  # documents that are shuffled together; 0: the order of the source
    config.text.max_documents = 0  # documents; 0: all of them
    config.text.held_out_fraction = 0.1  # share of the text kept for evaluation; near-duplicates stay on one side
    config.text.compare_up_to = 64_000_000  # bytes: of no more text, all documents are compared for near-duplicates
    config.text.packing = "across_documents"  # rows cut from all documents in turn; | "one_document": its start a row
    config.text.context_length = 256  # tokens a row; at most what the language model was trained with
    config.text.separator = "auto"  # before each document: "eos" | "bos" | "none"; "auto": EOS, BOS if there is no EOS
    config.text.prepend_bos = "auto"  # to every row: "always" | "never"; "auto": if the tokenizer does so by itself
    config.text.skip_positions = 1  # positions at each row's start that never count (the first is an attention sink)
    config.text.mask_special_tokens = True  # BOS, EOS and other special tokens never count
    config.text.mask_tokens = ()  # ids of further tokens that never count
    config.text.store = ""  # directory of the token store; "": <workdir>/tokens. Runs that name the same one share it

    config.activations = ConfigDict()
    # "store": harvested to disk, then trained on; "live": the language model makes the same rows while the sweep
    # trains; "rows": what something else has written (experiments/own_activations.py)
    config.activations.source = "store"
    # source "rows": .npy or safetensors files, saved data sets, directories of these, globs; () if the store has them
    config.activations.paths = ()
    config.activations.held_out_fraction = 0.1  # source "rows": share of the rows that never train; they judge
    config.activations.rows = 1_310_720  # rows at most; 0: all that the training text gives
    config.activations.superblock_rows = 131_072  # rows that are shuffled together; a multiple of the batch size
    config.activations.dtype = "bfloat16"  # of the rows, on disk and live: "bfloat16" | "float32"
    config.activations.gradients = False  # keep the gradient of the summed cross-entropy beside every activation
    config.activations.sequences_at_once = 0  # sequences in one forward pass; 0: as many as are worth it and fit
    config.activations.devices = 0  # devices beside those of the mesh that make the rows; 0: those of the mesh do
    config.activations.memory_gb = 0.0  # GB that live may need of each device (on CPU, of the host); 0: all there are
    config.activations.statistics_rows = 2_097_152  # the first so many rows give the mean and the scale; 0: all of them
    # source "store": its directory, gs://bucket/path or s3://...; "": <workdir>/activations. Runs may share it
    config.activations.store = ""

    config.sae = ConfigDict()
    config.sae.width = 256  # features of a point whose width_factor is 1
    config.sae.normalisation = "mean_squared_norm"  # inputs scaled to unit mean squared norm; | "none"
    config.sae.decoder_bias = "zeros"  # initial b_dec: "zeros" | "mean" of the activations
    config.sae.compute_dtype = "auto"  # of the large products: "float32" | "bfloat16"; "auto": float32 on CPU only
    config.sae.start_from = ""  # directory of a finished run whose weights rescaled_standard begins with; else ""

    # The points: each entry is the product of its tuples. Add entries freely; points that can share a program do. To a
    # finished sweep points can be added, and given more steps, in its own workdir: docs/sweeps.md.
    config.sweep = ConfigDict()
    config.sweep.gated = ConfigDict()
    config.sweep.gated.architecture = "gated"  # one of those in gsae/autoencoders/registry.py
    config.sweep.gated.sites = ("attn_z.1",)  # name.layer: resid_pre, resid_mid, resid_post, attn_z, attn_out, ...
    config.sweep.gated.width_factor = 1.0  # features = width_factor * config.sae.width
    config.sweep.gated.sparsity_coefficients = (0.04, 0.3, 0.55, 1.05)  # weight of the L1 penalty, sum-of-squares loss
    config.sweep.gated.target_l0 = ()  # instead of coefficients, which are () then: the L0 to find them for
    config.sweep.gated.learning_rates = (4e-3,)  # peak of the schedule, Adam
    config.sweep.gated.seeds = (0,)  # of the initialisation
    config.sweep.gated.steps = 0  # updates of these points; 0: config.training.steps. More extend trained ones
    config.sweep.gated.options = ConfigDict()
    config.sweep.gated.options.tied = True  # the magnitude encoder is the gate's times exp(r_mag)
    config.sweep.gated.options.r_mag = True  # learn that rescaling
    config.sweep.gated.options.frozen_decoder = True  # the auxiliary loss decodes through a stopped decoder
    config.sweep.gated.options.ri_l1 = False  # weigh the penalty by decoder norms instead of holding them at one
    config.sweep.gated.options.reconstruction_scale = "sum"  # squared errors summed over the width, | "width": averaged
    # | "width_and_norm": averaged, and divided by the mean norm of the activations
    config.sweep.gated.options.decoder_transpose_init = True  # W_enc = W_dec^T at the start

    config.sweep.standard = ConfigDict()
    config.sweep.standard.architecture = "standard"
    config.sweep.standard.sites = ("attn_z.1",)
    config.sweep.standard.width_factor = 1.5  # the paper's compute matching: 5 products of 1.5x against 7
    config.sweep.standard.sparsity_coefficients = (0.035, 0.14, 0.3, 0.6)
    config.sweep.standard.target_l0 = ()
    config.sweep.standard.learning_rates = (8e-3,)
    config.sweep.standard.seeds = (0,)
    config.sweep.standard.steps = 0
    config.sweep.standard.options = ConfigDict()
    config.sweep.standard.options.ri_l1 = False
    config.sweep.standard.options.reconstruction_scale = "sum"
    config.sweep.standard.options.decoder_transpose_init = True

    config.training = ConfigDict()
    config.training.steps = 20_480  # updates of every point; more than a workdir's points have extend them
    config.training.batch_size = 256  # rows a step
    config.training.beta2 = 0.999  # Adam's second moment; beta1 is 0, as in the paper
    config.training.epsilon = 1e-8  # Adam's
    config.training.warmup = "400 steps"  # of the learning rate
    config.training.warmup_shape = "linear"  # | "cosine" (from 0.1 of the learning rate)
    config.training.decay = "linear"  # | "cosine" | "constant"
    config.training.decay_start = "75%"  # where it begins to fall
    config.training.decay_to = 0.0  # share of the learning rate at the end
    config.training.sparsity_warmup = "2000 steps"  # the sparsity coefficient rises linearly from 0
    config.training.dead_window = "100_000 tokens"  # a feature silent for so long is dead
    config.training.resampling = ConfigDict()
    # when dead features are revived; none in the last quarter of the run
    config.training.resampling.at = ("20%", "40%", "60%")  # durations; () for never
    config.training.resampling.inputs = 16_384  # rows scored for candidates
    config.training.resampling.rewarmup = "400 steps"  # the learning rate falls to 0.1x and returns along a cosine
    config.training.target_l0 = ConfigDict()  # how coefficients are found for entries with target_l0: docs/sweeps.md
    config.training.target_l0.pilot = "5%"  # length of the pilot that places them
    config.training.target_l0.pilot_coefficients = (1e-3, 1e-2, 0.1, 1.0)  # what it tries, in the unit of the loss
    config.training.target_l0.adjust_until = "100%"  # they follow the measured L0 until here, then they stay
    config.training.target_l0.held_out_tokens = 32_768  # that judge nothing, and correct for L0 being another there
    config.training.checkpoint_every = 4000  # steps; 0: only at the end
    config.training.keep_checkpoints = 2  # the newest so many stay
    config.training.checkpoints = ""  # directory or gs://bucket/path of this run alone; "": <workdir>/checkpoints

    config.evaluation = ConfigDict()
    config.evaluation.tokens = 102_400  # held-out tokens at most; 0: all of them
    config.evaluation.skip_tokens = 0  # so many are passed over first: tune on some, report the others
    config.evaluation.sequences_at_once = 8  # 8 keeps the passes in a CPU cache; an accelerator wants more
    config.evaluation.zero_ablation = "masked"  # what the zero arm sets to zero: the rows that count, | "all_positions"
    config.evaluation.bootstrap_samples = 1000  # resamplings of documents behind each standard error
    config.evaluation.baseline = "standard"  # the architecture that the others' L0 is compared with
    config.evaluation.pursuit = ()  # L0 at which gradient pursuit finds codes too, encoders ignored; () for none
    config.evaluation.pursuit_tokens = 25_600  # held-out tokens at most, of those above
    config.evaluation.error_bound = False  # whether norms of codes are compared with the inputs': docs/error_bound.md
    config.evaluation.every = 10_000  # steps between the quick evaluations that redraw frontier.png; 0: none
    config.evaluation.quick_tokens = 8_192  # held-out tokens of a quick evaluation
    config.evaluation.dashboards = 0  # features of each point, drawn at random, shown in features.html; 0: no such page

    config.logging = ConfigDict()
    config.logging.every = 100  # steps
    config.logging.tensorboard = True  # event files in <workdir>/logs
    config.logging.wandb_project = ""  # a Weights & Biases project; "": do not log there
    return config
