/* Reading the array objects of Python where they lie: asking for a pointer through Python takes a microsecond for each.
 *
 * One call of a program gets one tuple: a table of what its operands must be, the arena, the operands, and the results; many
 * calls in one get a cr_repetition and the row numbers too. Python checks once that objects are laid out as here (see layout.py),
 * and says where the fields begin. */
struct cr_array {
    char *data;
    int rank;
    long *sizes;
    long *strides;
    void *base;
    void *element_type;
    int flags;
};

/* The table: the batch size, the type of array objects, the addresses of the constants, and then, for each operand, its element
 * type, the flags that it must have, its rank, and its sizes. */
enum { CR_BATCH, CR_ARRAY_TYPE, CR_CONSTANTS, CR_OPERANDS };

static long cr_items_at, cr_fields_at;

#ifndef CR_PART
CR_EXPORT void cr_layout(long items_at, long fields_at) {
    cr_items_at = items_at;
    cr_fields_at = fields_at;
}
#endif

static inline __attribute__((unused)) const char *cr_item(const char *tuple, long number) {
    const char *object;
    memcpy(&object, tuple + cr_items_at + number * (long)sizeof object, sizeof object);
    return object;
}

static inline __attribute__((unused)) const struct cr_array *cr_array_of(const char *object) {
    return (const struct cr_array *)(object + cr_fields_at);
}

/* Takes the pointers to the data of operands and results from a tuple, in which they begin at item `first`; false if an operand
 * is not what the table says. */
static inline __attribute__((unused)) int cr_take(
    const char *tuple, long first, const long *table, char **arrays, long operands, long results) {
    const long *wanted = table + CR_OPERANDS;
    for (long k = 0; k < operands; k++) {
        const char *object = cr_item(tuple, first + k);
        const struct cr_array *array = cr_array_of(object);
        void *type;
        memcpy(&type, object + cr_fields_at - sizeof type, sizeof type);
        if (type != (void *)table[CR_ARRAY_TYPE] || array->element_type != (void *)wanted[0]) return 0;
        if ((array->flags & wanted[1]) != wanted[1] || array->rank != wanted[2]) return 0;
        for (long axis = 0; axis < wanted[2]; axis++)
            if (array->sizes[axis] != wanted[3 + axis]) return 0;
        arrays[k] = array->data;
        wanted += 3 + wanted[2];
    }
    for (long k = operands; k < operands + results; k++) arrays[k] = cr_array_of(cr_item(tuple, first + k))->data;
    return 1;
}
