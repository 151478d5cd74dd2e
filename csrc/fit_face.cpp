// fit_face on the CPU. Compiled once per instruction set. 57 equations from 144 coordinates: all of it lies in the
// first cache, and the dot products of the normal equations are nine tenths of the work.
#include "fit_face.h"

#include "substrate/isa.h"
#include "substrate/vec.h"

namespace fastreenact {
namespace FASTREENACT_ISA {
namespace {

constexpr int kN = kFacePoints, kLids = kFaceLids;
constexpr int kUnknowns = 6 + kFaceModes;  // turn 3, move 2, log scale, expressions
constexpr int kColumns = 2 * kN;           // coordinates: all x, then all y
constexpr int kRow = 64;                   // doubles of a row of the normal equations
constexpr int kDoubles = 8;
typedef double Doubles __attribute__((vector_size(8 * kDoubles)));

FASTREENACT_INLINE Doubles load_doubles(const double* from) {
    Doubles value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
}

FASTREENACT_INLINE double total(Doubles value) {
    return ((value[0] + value[1]) + (value[2] + value[3])) + ((value[4] + value[5]) + (value[6] + value[7]));
}

struct Work {
    alignas(64) double turned[3][kN];                  // times scale
    alignas(64) double jacobian[kUnknowns][kColumns];  // d projection / d unknown
    alignas(64) double weighted[kUnknowns][kColumns];  // times the weights
    alignas(64) double curvature[kUnknowns][kRow];     // lower triangle
    alignas(64) double residual[kColumns], weight[kColumns];
    double force[kUnknowns], lid_gap[3][kLids], view[2][3];
};

// Turned points, projection, what it leaves of the target; how far the lids were apart.
void project(const FitFaceParams& p, Work& w) {
    double points[3][kN];
    for (int c = 0; c < 3; ++c) {
        for (int k = 0; k < kN; ++k) points[c][k] = p.base[c * kN + k];
    }
    for (int e = 0; e < kFaceModes; ++e) {
        const double amount = p.expression[e];
        const double* mode = p.modes + e * 3 * kN;
        for (int c = 0; c < 3; ++c) {
            for (int k = 0; k < kN; ++k) points[c][k] += amount * mode[c * kN + k];
        }
    }
    for (int i = 0; i < kLids; ++i) {
        const int upper = p.lids[i], lower = p.lids[kLids + i];
        const double closing = p.expression[p.lids[2 * kLids + i]];
        for (int c = 0; c < 3; ++c) {
            const double gap = points[c][upper] - points[c][lower];
            w.lid_gap[c][i] = gap;
            points[c][upper] += (p.meet - 1.0) * closing * gap;
            points[c][lower] += p.meet * closing * gap;
        }
    }
    const double *r = p.rotation, scale = p.camera[2];
    for (int c = 0; c < 3; ++c) {
        for (int k = 0; k < kN; ++k) {
            w.turned[c][k] =
                scale * (r[3 * c] * points[0][k] + r[3 * c + 1] * points[1][k] + r[3 * c + 2] * points[2][k]);
        }
    }
    for (int k = 0; k < kN; ++k) {
        w.residual[k] = p.target[k] - p.camera[0] - w.turned[0][k];
        w.residual[kN + k] = p.target[kN + k] - p.camera[1] + w.turned[1][k];
    }
    for (int c = 0; c < 3; ++c) {
        w.view[0][c] = scale * r[c];
        w.view[1][c] = -scale * r[3 + c];
    }
}

void linearise(const FitFaceParams& p, Work& w) {
    for (int k = 0; k < kN; ++k) {
        const double x = w.turned[0][k], y = w.turned[1][k], z = w.turned[2][k];
        w.jacobian[0][k] = 0.0, w.jacobian[0][kN + k] = z;
        w.jacobian[1][k] = z, w.jacobian[1][kN + k] = 0.0;
        w.jacobian[2][k] = -y, w.jacobian[2][kN + k] = -x;
        w.jacobian[3][k] = 1.0, w.jacobian[3][kN + k] = 0.0;
        w.jacobian[4][k] = 0.0, w.jacobian[4][kN + k] = 1.0;
        w.jacobian[5][k] = x, w.jacobian[5][kN + k] = -y;
    }
    for (int e = 0; e < kFaceModes; ++e) {
        const double* mode = p.modes + e * 3 * kN;
        double* row = w.jacobian[6 + e];
        for (int c = 0; c < 2; ++c) {
            for (int k = 0; k < kN; ++k) {
                row[c * kN + k] =
                    w.view[c][0] * mode[k] + w.view[c][1] * mode[kN + k] + w.view[c][2] * mode[2 * kN + k];
            }
        }
        for (int i = 0; i < kLids; ++i) {
            const double closing = p.expression[p.lids[2 * kLids + i]];
            for (int c = 0; c < 2; ++c) {
                double &upper = row[c * kN + p.lids[i]], &lower = row[c * kN + p.lids[kLids + i]];
                const double gap = upper - lower;
                upper += (p.meet - 1.0) * closing * gap;
                lower += p.meet * closing * gap;
            }
        }
    }
    for (int i = 0; i < kLids; ++i) {
        double* row = w.jacobian[6 + p.lids[2 * kLids + i]];
        for (int c = 0; c < 2; ++c) {
            const double gap =
                w.view[c][0] * w.lid_gap[0][i] + w.view[c][1] * w.lid_gap[1][i] + w.view[c][2] * w.lid_gap[2][i];
            row[c * kN + p.lids[i]] += (p.meet - 1.0) * gap;
            row[c * kN + p.lids[kLids + i]] += p.meet * gap;
        }
    }
}

// Trust, noise, and Huber's weight of outliers.
void weigh(const FitFaceParams& p, Work& w) {
    const double sigma = p.noise * p.camera[2];
    for (int k = 0; k < kN; ++k) {
        const double x = w.residual[k], y = w.residual[kN + k];
        double distance = __builtin_sqrt(x * x + y * y) / sigma;
        distance = distance > p.outlier ? distance : p.outlier;
        w.weight[k] = w.weight[kN + k] = p.trust[k] / (sigma * sigma) * (p.outlier / distance);
    }
}

// The normal equations of data and priors, the lower triangle.
void normal(const FitFaceParams& p, Work& w) {
    for (int i = 0; i < kUnknowns; ++i) {
        for (int k = 0; k < kColumns; ++k) w.weighted[i][k] = w.jacobian[i][k] * w.weight[k];
    }
    for (int i = 0; i < kUnknowns; ++i) {
        int j = 0;
        for (; j + 4 <= i + 1; j += 4) {
            Doubles sum[4] = {};
            for (int k = 0; k < kColumns; k += kDoubles) {
                const Doubles row = load_doubles(w.weighted[i] + k);
                for (int q = 0; q < 4; ++q) sum[q] += row * load_doubles(w.jacobian[j + q] + k);
            }
            for (int q = 0; q < 4; ++q) w.curvature[i][j + q] = total(sum[q]);
        }
        for (; j <= i; ++j) {
            Doubles sum = {};
            for (int k = 0; k < kColumns; k += kDoubles) {
                sum += load_doubles(w.weighted[i] + k) * load_doubles(w.jacobian[j] + k);
            }
            w.curvature[i][j] = total(sum);
        }
        Doubles force = {};
        for (int k = 0; k < kColumns; k += kDoubles) {
            force += load_doubles(w.weighted[i] + k) * load_doubles(w.residual + k);
        }
        w.force[i] = total(force);
    }
    Doubles square = {};
    for (int k = 0; k < kColumns; k += kDoubles) {
        const Doubles residual = load_doubles(w.residual + k);
        square += load_doubles(w.weight + k) * residual * residual;
    }
    // Mean square of the distances in units of the noise. Far below 1 the modes draw this face, and the data decide.
    double doubt = 4.0 * total(square) / kColumns;
    doubt = doubt < p.least_doubt ? p.least_doubt : doubt > 1.0 ? 1.0 : doubt;
    const double stiff = 1.0 / (p.slack * p.slack);
    for (int e = 0; e < kFaceModes; ++e) {
        const double now = p.expression[e], inside = now < 0.0 ? 0.0 : now > 1.0 ? 1.0 : now;
        w.force[6 + e] += (inside - now) * stiff - doubt * p.stiffness[e] * now;
        w.curvature[6 + e][6 + e] += (now != inside ? stiff : 0.0) + doubt * p.stiffness[e];
    }
}

// Solves the normal equations in place (Cholesky): `force` becomes the step.
void solve(Work& w) {
    for (int i = 0; i < kUnknowns; ++i) {
        double* row = w.curvature[i];
        for (int j = 0; j <= i; ++j) {
            const double* other = w.curvature[j];
            Doubles sums = {};
            int k = 0;
            for (; k + kDoubles <= j; k += kDoubles) sums += load_doubles(row + k) * load_doubles(other + k);
            double sum = row[j] - total(sums);
            for (; k < j; ++k) sum -= row[k] * other[k];
            if (j < i) {
                row[j] = sum / other[j];
            } else {
                const double least = 1e-14 * row[i];  // keypoints that leave an unknown open leave it where it is
                row[i] = __builtin_sqrt(sum > least ? sum : least > 0.0 ? least : 1.0);
            }
        }
    }
    for (int i = 0; i < kUnknowns; ++i) {
        for (int k = 0; k < i; ++k) w.force[i] -= w.curvature[i][k] * w.force[k];
        w.force[i] /= w.curvature[i][i];
    }
    for (int i = kUnknowns - 1; i >= 0; --i) {
        w.force[i] /= w.curvature[i][i];
        for (int k = 0; k < i; ++k) w.force[k] -= w.curvature[i][k] * w.force[i];
    }
}

FASTREENACT_INLINE double size_of(double x) {
    return x < 0.0 ? -x : x;
}

// Applies the step; gives how far it moves an unknown at most.
double advance(const FitFaceParams& p, Work& w) {
    double most = 1.0, *step = w.force;  // shortened where it turns by more than 0.5 rad or moves a coefficient by 1
    for (int i = 0; i < kUnknowns; ++i) {
        const double size = i < 3 ? size_of(step[i]) / 0.5 : i < 6 ? 0.0 : size_of(step[i]);
        most = size > most ? size : most;
    }
    double moved = 0.0;
    for (int i = 0; i < kUnknowns; ++i) {
        step[i] /= most;
        moved = size_of(step[i]) > moved ? size_of(step[i]) : moved;
    }
    const double x = step[0], y = step[1], z = step[2], angle2 = x * x + y * y + z * z, angle = __builtin_sqrt(angle2);
    const bool small = angle2 < 1e-8;
    const double first = small ? 1.0 - angle2 / 6.0 : __builtin_sin(angle) / angle;
    const double second = small ? 0.5 - angle2 / 24.0 : (1.0 - __builtin_cos(angle)) / angle2;
    const double cross[3][3] = {{0.0, -z, y}, {z, 0.0, -x}, {-y, x, 0.0}};
    double turn[3][3], old[3][3];
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            double squared = 0.0;
            for (int k = 0; k < 3; ++k) squared += cross[i][k] * cross[k][j];
            turn[i][j] = (i == j ? 1.0 : 0.0) + first * cross[i][j] + second * squared;
            old[i][j] = p.rotation[3 * i + j];
        }
    }
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            p.rotation[3 * i + j] = turn[i][0] * old[0][j] + turn[i][1] * old[1][j] + turn[i][2] * old[2][j];
        }
    }
    p.camera[0] += step[3];
    p.camera[1] += step[4];
    p.camera[2] *= __builtin_exp(step[5] < -0.7 ? -0.7 : step[5] > 0.7 ? 0.7 : step[5]);
    for (int e = 0; e < kFaceModes; ++e) p.expression[e] += step[6 + e];
    return moved;
}

}  // namespace

void fit_face(const FitFaceParams& p, int64_t, int64_t) {
    Work w;
    for (int64_t step = 0; step < p.steps; ++step) {
        project(p, w);
        linearise(p, w);
        weigh(p, w);
        normal(p, w);
        solve(w);
        if (advance(p, w) < p.enough) break;
    }
    project(p, w);
    for (int k = 0; k < kColumns; ++k) p.residual[k] = w.residual[k];
}

}  // namespace FASTREENACT_ISA
}  // namespace fastreenact
