/* Times MPI_Allreduce of f32, as benches/all_reduce.rs of burn-dist times its own: in place, all ranks
 * begin a repetition together, and the median of many is what rank 0 sees.
 *
 * Prints one line of JSON for each size. Which way the bytes take is chosen by mpirun's arguments;
 * --layout only says in the lines what it is compared with.
 *
 * Caller: `cargo xtask bench --peers`. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 2000, LEAST = 5 };

static int ascending(const void *left, const void *right)
{
    double l = *(const double *)left, r = *(const double *)right;
    return (l > r) - (l < r);
}

static double once(float *buffer, int count)
{
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    MPI_Allreduce(MPI_IN_PLACE, buffer, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    return MPI_Wtime() - start;
}

/* The median time of one all-reduce of that many bytes. */
static double median(long bytes, double budget)
{
    static double times[MOST];
    int count = (int)(bytes / (long)sizeof(float));
    float *buffer = calloc((size_t)count, sizeof(float));
    if (!buffer)
        MPI_Abort(MPI_COMM_WORLD, 1);
    once(buffer, count);
    double second = once(buffer, count);
    /* All ranks repeat as often as rank 0 finds right. */
    double often = budget / (second > 1e-5 ? second : 1e-5);
    MPI_Bcast(&often, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    int repetitions = often < LEAST ? LEAST : often > MOST ? MOST : (int)often;
    for (int i = 0; i < repetitions; i++)
        times[i] = once(buffer, count);
    free(buffer);
    qsort(times, (size_t)repetitions, sizeof(double), ascending);
    return times[repetitions / 2];
}

int main(int argc, char **argv)
{
    const char *layout = "processes";
    char *sizes = NULL;
    double budget = 1.0;
    int wanted = 0, rank, ranks;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--layout"))
            layout = argv[i + 1];
        else if (!strcmp(argv[i], "--ranks"))
            wanted = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--sizes"))
            sizes = argv[i + 1];
        else if (!strcmp(argv[i], "--budget"))
            budget = atof(argv[i + 1]);
        else
            return fprintf(stderr, "%s: not understood\n", argv[i]), 2;
    }
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (wanted != ranks) {
        if (rank == 0)
            fprintf(stderr, "started as %d ranks, but --ranks is %d\n", ranks, wanted);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    for (char *size = sizes ? strtok(sizes, ",") : NULL; size; size = strtok(NULL, ",")) {
        long bytes = atol(size);
        double seconds = median(bytes, budget);
        if (rank == 0) {
            printf("{\"bench\": \"all-reduce\", \"layout\": \"%s\", \"ranks\": %d, "
                   "\"bytes\": %ld, \"seconds\": %e}\n",
                   layout, ranks, bytes, seconds);
            fflush(stdout);
        }
    }
    MPI_Finalize();
    return 0;
}
