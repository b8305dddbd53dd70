/* Times Open MPI as the benches of burn-dist time their own: all ranks begin a repetition together, and the
 * median of many is what rank 0 sees.
 *
 *   --bench all-reduce  MPI_Allreduce of f32, in place
 *   --bench growth      MPI_Barrier, then MPI_Allreduce as above
 *   --bench broadcast   MPI_Bcast of f32 from rank 0, until a barrier says that all have it
 *   --bench launch      the slowest rank's time from --began (nanoseconds since 1970) to the end of a first barrier
 *
 * Prints one line of JSON for each measurement. Which way the bytes take is chosen by mpirun's arguments;
 * --layout only says in the lines what it is compared with. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 2000, LEAST = 5 };

static const char *layout = "processes";
static int rank, ranks;

typedef void operation(float *buffer, int count);

static void all_reduce(float *buffer, int count)
{
    MPI_Allreduce(MPI_IN_PLACE, buffer, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void broadcast(float *buffer, int count)
{
    MPI_Bcast(buffer, count, MPI_FLOAT, 0, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void barrier(float *buffer, int count)
{
    (void)buffer, (void)count;
    MPI_Barrier(MPI_COMM_WORLD);
}

static int ascending(const void *left, const void *right)
{
    double l = *(const double *)left, r = *(const double *)right;
    return (l > r) - (l < r);
}

static double once(operation *operate, float *buffer, int count)
{
    MPI_Barrier(MPI_COMM_WORLD);
    double start = MPI_Wtime();
    operate(buffer, count);
    return MPI_Wtime() - start;
}

/* The median time of one operation of that many bytes. */
static double median(operation *operate, long bytes, double budget)
{
    static double times[MOST];
    int count = (int)(bytes / (long)sizeof(float));
    float *buffer = calloc((size_t)count + 1, sizeof(float));
    if (!buffer)
        MPI_Abort(MPI_COMM_WORLD, 1);
    once(operate, buffer, count);
    double second = once(operate, buffer, count);
    /* All ranks repeat as often as rank 0 finds right. */
    double often = budget / (second > 1e-5 ? second : 1e-5);
    MPI_Bcast(&often, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    int repetitions = often < LEAST ? LEAST : often > MOST ? MOST : (int)often;
    for (int i = 0; i < repetitions; i++)
        times[i] = once(operate, buffer, count);
    free(buffer);
    qsort(times, (size_t)repetitions, sizeof(double), ascending);
    return times[repetitions / 2];
}

static void print(const char *bench, long bytes, double seconds)
{
    if (rank > 0)
        return;
    printf("{\"bench\": \"%s\", \"layout\": \"%s\", \"ranks\": %d, \"bytes\": %ld, \"seconds\": %e}\n", bench,
           layout, ranks, bytes, seconds);
    fflush(stdout);
}

/* Times the first barrier's end, in seconds since 1970 less the nanoseconds of `began`. */
static void launch(const char *began)
{
    struct timespec now;
    MPI_Barrier(MPI_COMM_WORLD);
    clock_gettime(CLOCK_REALTIME, &now);
    long long since = now.tv_sec * 1000000000LL + now.tv_nsec - (began ? atoll(began) : 0);
    double mine = (double)since / 1e9, slowest = 0;
    MPI_Reduce(&mine, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
    print("launch", 0, slowest);
}

int main(int argc, char **argv)
{
    const char *bench = "all-reduce", *began = NULL;
    char *sizes = NULL;
    double budget = 1.0;
    int wanted = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--bench"))
            bench = argv[i + 1];
        else if (!strcmp(argv[i], "--layout"))
            layout = argv[i + 1];
        else if (!strcmp(argv[i], "--ranks"))
            wanted = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--sizes"))
            sizes = argv[i + 1];
        else if (!strcmp(argv[i], "--budget"))
            budget = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--began"))
            began = argv[i + 1];
        else
            return fprintf(stderr, "%s: not understood\n", argv[i]), 2;
    }
    int growth = !strcmp(bench, "growth"), copies = !strcmp(bench, "broadcast");
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (wanted != ranks) {
        if (rank == 0)
            fprintf(stderr, "started as %d ranks, but --ranks is %d\n", ranks, wanted);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (!strcmp(bench, "launch"))
        launch(began);
    if (growth)
        print("growth-barrier", 0, median(barrier, 0, budget));
    for (char *size = sizes ? strtok(sizes, ",") : NULL; size; size = strtok(NULL, ",")) {
        long bytes = atol(size);
        double seconds = median(copies ? broadcast : all_reduce, bytes, budget);
        print(growth ? "growth-all-reduce" : bench, bytes, seconds);
    }
    MPI_Finalize();
    return 0;
}
